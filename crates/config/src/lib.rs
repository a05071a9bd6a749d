//! Configuration: one typed definition, TOML, secrets, origins
