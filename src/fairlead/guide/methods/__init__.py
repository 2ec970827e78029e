"""One file per guidance method, and nothing else; the registry names them."""
