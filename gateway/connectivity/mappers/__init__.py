"""Payload mappers: between what a peer sends and Ditto Protocol."""
