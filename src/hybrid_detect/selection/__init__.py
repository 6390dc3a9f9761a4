"""How the choice is made: estimates, breakers and policies; none of them does I/O."""
