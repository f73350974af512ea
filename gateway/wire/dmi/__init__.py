"""DMI, the interface between EdgeCore and mappers: its messages as Protocol Buffers, without a library."""
