//! XEPs as data and plain functions, one file each
