"""The roles scorer and archiver; `catalog` builds them."""
