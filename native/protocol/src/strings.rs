//! Many short strings as one block: an environment is made once and goes through here with every command.

/// Strings that are each terminated by a NUL, one behind the other, as execve(2) wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings(Vec<u8>);

impl Strings {
    /// `None` when the last one is not terminated.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Strings> {
        bytes.last().is_none_or(|last| *last == 0).then_some(Strings(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Without their NULs.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split_inclusive(|byte| *byte == 0).map(|string| &string[..string.len() - 1])
    }
}

/// A string ends at its first NUL.
impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Strings {
        let mut all = Strings::default();
        all.extend(strings);
        all
    }
}

impl<S: AsRef<[u8]>> Extend<S> for Strings {
    fn extend<I: IntoIterator<Item = S>>(&mut self, strings: I) {
        for string in strings {
            self.0.extend(string.as_ref().iter().take_while(|byte| **byte != 0));
            self.0.push(0);
        }
    }
}
