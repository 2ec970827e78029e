"""People's own images. What is there: `listing`, `folders`, `metadata`, `tables`, `columns`, `npz`. Which are a set:
`sets`. Decoded once (`rows`, `chunks`, `preparation`), to one size (`fitting`), into a mapped file (`store`)."""
