"""Everything that touches tf_keras: its reader and emitter, and where the two Kerases differ."""
