//! A connection to redis-server: commands are gathered and sent at once, replies are slices of what came.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const READ_BYTES: usize = 256 << 10;

/// A reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `OK`.
    Done,
    /// An integer.
    Number(u64),
    /// What was read.
    Value(&'a [u8]),
    /// Nothing was there.
    Absent,
}

impl<'a> Reply<'a> {
    /// What was read, if anything.
    pub fn value(&self) -> Option<&'a [u8]> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }

    /// Fails unless something was stored.
    pub fn stored(&self) -> Result<()> {
        ensure!(matches!(self, Self::Done | Self::Number(_)), "not stored");
        Ok(())
    }
}

/// A connection with what is not yet sent and not yet understood.
pub struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    input: BytesMut,
}

impl Connection {
    /// Connects and selects a database.
    pub async fn open(port: u16, db: u32) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let mut connection = Self { socket, out: Vec::new(), input: BytesMut::new() };
        connection.command(&[b"SELECT", db.to_string().as_bytes()]);
        let selected = |_: usize, reply: Reply<'_>| {
            ensure!(reply == Reply::Done, "database {db} is not there");
            Ok(())
        };
        connection.exchange(1, selected).await?;
        Ok(connection)
    }

    /// Adds a command to what [`Connection::send`] sends.
    pub fn command(&mut self, parts: &[&[u8]]) {
        number(&mut self.out, b'*', parts.len());
        for part in parts {
            number(&mut self.out, b'$', part.len());
            self.out.extend_from_slice(part);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends all commands. The server keeps replies that we have not read, so it never waits for us.
    pub async fn send(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Waits for the next replies and takes all that are there; returns their number.
    pub async fn replies(&mut self, mut take: impl FnMut(Reply<'_>) -> Result<()>) -> Result<usize> {
        let mut taken = 0;
        loop {
            while let Some((reply, len)) = parse(&self.input)? {
                take(reply)?;
                self.input.advance(len);
                taken += 1;
            }
            if taken > 0 {
                return Ok(taken);
            }
            self.input.reserve(READ_BYTES);
            let read = self.socket.read_buf(&mut self.input).await?;
            ensure!(read > 0, "redis-server has closed the connection");
        }
    }

    /// Sends all commands and waits for that many replies; each is told its place.
    pub async fn exchange(&mut self, count: usize, mut take: impl FnMut(usize, Reply<'_>) -> Result<()>) -> Result<()> {
        self.send().await?;
        let mut place = 0;
        while place < count {
            self.replies(|reply| {
                place += 1;
                take(place - 1, reply)
            })
            .await?;
        }
        Ok(())
    }
}

fn number(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    let mut power = 1;
    while number / power >= 10 {
        power *= 10;
    }
    while power > 0 {
        out.push(b'0' + (number / power % 10) as u8);
        power /= 10;
    }
    out.extend_from_slice(b"\r\n");
}

/// Returns the first reply and its length; `None` if it is not all there.
fn parse(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>> {
    let Some(end) = input.iter().position(|byte| *byte == b'\r') else { return Ok(None) };
    let rest = end + 2;
    if input.len() < rest {
        return Ok(None);
    }
    let text = || std::str::from_utf8(&input[1..end]).context("a reply that is no text");
    Ok(Some(match input[0] {
        b'+' => (Reply::Done, rest),
        b':' => (Reply::Number(text()?.parse()?), rest),
        b'$' if &input[1..end] == b"-1" => (Reply::Absent, rest),
        b'$' => {
            let len: usize = text()?.parse()?;
            if input.len() < rest + len + 2 {
                return Ok(None);
            }
            (Reply::Value(&input[rest..rest + len]), rest + len + 2)
        }
        _ => bail!("redis-server says {}", String::from_utf8_lossy(&input[..end])),
    }))
}
