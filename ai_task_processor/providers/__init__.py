"""The model side: who turns texts into vectors."""
