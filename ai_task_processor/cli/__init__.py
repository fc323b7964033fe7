"""The commands. ``main`` parses the command line; each larger command has a module or package of its own."""
