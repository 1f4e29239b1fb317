"""One module a command, imported when it is used: each has a typer `app` with one function, `command`."""

COMMANDS = (
    *(
        "run",
        "resume",
        "list",
        "show",
        "explain",
        "profile",
        "bench",
        "table",
        "plot",
        "report",
        "compare",
        "sweep",
        "ui",
    ),
    *("agreement", "migrate", "pack", "export", "predict"),
)
