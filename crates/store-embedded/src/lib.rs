//! The embedded store: fjall journal with group commit and tickets, a durability mark in redb
