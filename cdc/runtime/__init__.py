"""How a process of pgherald lives: settings, errors, log, metrics, connections, the command line."""
