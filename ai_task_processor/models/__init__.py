"""The words everyone uses. Nothing here imports anything of ours."""
