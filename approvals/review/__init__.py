"""The two sittings of a day: in the morning what happened overnight, in the evening what came out and what is next."""
