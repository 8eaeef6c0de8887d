"""Who is alive: SWIM with Lifeguard as memberlist does it, serf on top. No input or output here."""
