"""What happens, as rows that say so: the source of live events, and of their replay."""
