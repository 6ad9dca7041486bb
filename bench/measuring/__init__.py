"""How things are timed, against which floors, and where a result is from."""
