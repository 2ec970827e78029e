"""People's own images. What is there: `listing`, `folders`, `metadata`, `tables`, `columns`, `npz`. What is a set of it:
`sets`. Decoded once (`rows`, `chunks`, `preparation`), to one size (`fitting`), into a mapped file (`store`)."""
