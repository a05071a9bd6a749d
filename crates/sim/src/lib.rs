//! Simulated cluster: production cores, a virtual clock, seeded faults and checkers
