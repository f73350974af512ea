"""Web of Things: Thing Models as values, what is made of them, what they allow. Pure, like all of `gateway.twin`."""
