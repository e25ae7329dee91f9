"""The roles: scorer, archiver; `catalog` names them."""
