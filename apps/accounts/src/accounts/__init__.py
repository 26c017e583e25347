"""accounts-ms: who has an account. Signs users up and tells the other services; the password never leaves it."""
