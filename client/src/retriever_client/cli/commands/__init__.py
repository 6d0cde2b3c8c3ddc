"""The commands, a module for each group; `main` names them, and loads what is asked for."""
