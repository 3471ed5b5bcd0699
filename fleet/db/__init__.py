"""The control host's database: tables, migrations, and one way to read and write."""
