//! Resource limits as Elixir has them.

use protocol::{Resource, Rlimit};
use rustler::{Decoder, Error, NifResult, Term};

/// `{name, soft, hard}`; nil is no limit.
pub(crate) struct Limit(pub(crate) Rlimit);

impl<'a> Decoder<'a> for Limit {
    fn decode(term: Term<'a>) -> NifResult<Limit> {
        let (name, soft, hard): (Term<'a>, Option<u64>, Option<u64>) = term.decode()?;
        let resource = Resource::from_name(&name.atom_to_string()?).ok_or(Error::BadArg)?;
        Ok(Limit(Rlimit { resource, soft, hard }))
    }
}
