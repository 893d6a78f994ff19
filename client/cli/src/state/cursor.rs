//! Where a scan goes on. A server's token points into one shard; a cursor finds the shard, too, even if it has
//! been split since.

use std::fmt;

use crate::text::{self, Token};

/// A key group, and the token of the server that holds it; none is the start of the key group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The key group of the last row; without a token, of the first one not looked at.
    pub group: u32,
    /// What the server said.
    pub token: Vec<u8>,
}

impl Cursor {
    /// Reads what was typed.
    pub fn parse(typed: &str) -> Result<Self, String> {
        let Token(bytes) = text::token(typed)?;
        let (group, token) =
            bytes.split_first_chunk().ok_or_else(|| "a token of a scan has at least 2 bytes".to_owned())?;
        Ok(Self { group: u16::from_be_bytes(*group).into(), token: token.to_vec() })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Key groups are below 32,768, and their end fits, too.
        write!(f, "{:04x}{}", self.group, Token(self.token.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_typed_as_it_is_shown() {
        for (cursor, shown) in [
            (Cursor { group: 32_768, token: Vec::new() }, "8000"),
            (Cursor { group: 3, token: vec![1, 255] }, "000301ff"),
        ] {
            assert_eq!((cursor.to_string().as_str(), Cursor::parse(shown)), (shown, Ok(cursor)));
        }
        assert!(Cursor::parse("00").is_err() && Cursor::parse("there").is_err());
    }
}
