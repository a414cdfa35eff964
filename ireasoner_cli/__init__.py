"""The command line: typer app, options, console, exit codes. The method itself is in `stages`."""
