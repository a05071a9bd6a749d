//! XEP-0077: In-Band Registration, as service discovery tells of it. The edge answers it, before and after login: it
//! derives keys from the password, which no shard ever sees.

use entity::module::Module;
use types::ns;

/// See the file.
pub const MODULE: Module = Module { name: "register", features: &[ns::REGISTER], ..Module::EMPTY };
