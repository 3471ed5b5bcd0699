"""Pure decisions about what runs next: values in, a plan out."""
