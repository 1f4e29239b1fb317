"""One module a command, imported when it is used: each has a function `command`, and if need be its class `Command`."""

COMMANDS = (
    *("run", "resume", "list", "options", "show", "explain", "profile", "bench", "table", "plot", "report", "compare"),
    *(
        "sweep",
        "ui",
        "tabular",
        "rank",
        "agreement",
        "migrate",
        "pack",
        "verify",
        "clean",
        "doctor",
        "export",
        "predict",
    ),
)
