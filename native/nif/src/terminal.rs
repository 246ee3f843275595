//! What somebody who writes to a terminal must mind: the lines of canonical mode (termios(3)).

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::termios::{InputModes, LocalModes, SpecialCodeIndex, SpecialCodes, Termios};

/// What a line may have, without its end: the kernel drops the rest without a word.
pub(crate) const LONGEST_LINE: usize = 4095;

/// _POSIX_VDISABLE: the code of a special character that there is not.
#[cfg(target_os = "linux")]
const DISABLED: u8 = 0;
#[cfg(not(target_os = "linux"))]
const DISABLED: u8 = 0xFF;

/// The line that has been begun and not ended.
#[derive(Debug, Default)]
pub(crate) struct Line {
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Canonical mode as it is now.
pub(crate) struct Canonical {
    /// End-of-file: what makes a read return what there is, at the beginning of a line nothing.
    eof: u8,
    /// What ends a line, or throws it away.
    ends: Vec<u8>,
}

impl Canonical {
    /// `None` in raw mode. Either end of the terminal can be asked.
    pub(crate) fn of(terminal: BorrowedFd<'_>) -> Result<Option<Canonical>, Errno> {
        Ok(Canonical::from_modes(&rustix::termios::tcgetattr(terminal)?))
    }

    fn from_modes(modes: &Termios) -> Option<Canonical> {
        if !modes.local_modes.contains(LocalModes::ICANON) {
            return None;
        }
        let special = |codes: &[SpecialCodeIndex]| special(&modes.special_codes, codes);
        use SpecialCodeIndex as Code;
        let mut ends = special(&[Code::VEOF, Code::VEOL, Code::VEOL2, Code::VKILL]);
        if !modes.input_modes.contains(InputModes::INLCR) {
            ends.push(b'\n');
        }
        if modes.input_modes.contains(InputModes::ICRNL) {
            ends.push(b'\r');
        }
        let flushes = !modes.local_modes.contains(LocalModes::NOFLSH);
        if modes.local_modes.contains(LocalModes::ISIG) && flushes {
            ends.extend(special(&[Code::VINTR, Code::VQUIT, Code::VSUSP]));
        }
        Some(Canonical { eof: modes.special_codes[Code::VEOF], ends })
    }

    /// What ends the input behind this line. One ends an unfinished line only.
    pub(crate) fn end_of_file(&self, line: &Line) -> Option<Vec<u8>> {
        let count = if line.bytes > 0 { 2 } else { 1 };
        (self.eof != DISABLED).then(|| vec![self.eof; count])
    }

    /// How much of `bytes` may be written: whole lines, and the begin of the last where nothing more is to come
    /// (`is_all`). Without a line that has an end, `bytes` must be more than a line can have.
    pub(crate) fn admit(&self, line: &Line, bytes: &[u8], is_all: bool) -> Result<usize, TooLong> {
        let mut length = line.bytes;
        let mut admitted = 0;
        for (place, byte) in bytes.iter().enumerate() {
            if self.ends.contains(byte) {
                length = 0;
                admitted = place + 1;
            } else {
                length += 1;
                if length > LONGEST_LINE {
                    return if admitted > 0 { Ok(admitted) } else { Err(TooLong) };
                }
            }
        }
        Ok(if is_all { bytes.len() } else { admitted })
    }

    /// These bytes have been written.
    pub(crate) fn written(&self, line: &mut Line, bytes: &[u8]) {
        line.bytes = match bytes.iter().rposition(|byte| self.ends.contains(byte)) {
            Some(end) => bytes.len() - end - 1,
            None => line.bytes + bytes.len(),
        };
    }
}

impl Line {
    /// In raw mode there are none.
    pub(crate) fn forget(&mut self) {
        self.bytes = 0;
    }
}

fn special(codes: &SpecialCodes, indices: &[SpecialCodeIndex]) -> Vec<u8> {
    indices.iter().map(|index| codes[*index]).filter(|code| *code != DISABLED).collect()
}
