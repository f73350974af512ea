"""Web of Things: Thing Models as values, what is made of them and what they allow. Pure."""
