"""Value types that all packages use. Imports no other package of the project."""
