"""Publishing: TUF metadata, keys and blobs, and the commands that write them."""
