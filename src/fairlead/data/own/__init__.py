"""Images decoded once: to one size (`fitting`), from files, rows or arrays (`rows`), into an array file that is mapped
(`store`), in parallel and so that it can be stopped (`preparation`)."""
