//! The least that a remote map can cost: frames over TCP, a hash map behind them, nothing checked and nothing kept.
//!
//! A frame is its length (u32) and operations: length of the value (u32; [`GET`] asks for it), key, value. The answer
//! to each operation is the length of a value and the value; a put is answered by no bytes.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use forebay_integration_tests::bench::{
    data::{Data, KEY_BYTES, Ledger, VALUE_BYTES},
    peer::Peer,
};
use hashbrown::HashMap;

use crate::{
    load::Load,
    plan::{IN_FLIGHT, Op},
};

/// The argument by which this program serves the map.
pub const SERVE: &str = "--serve-tcp";
const GET: u32 = u32::MAX;

/// Serves one connection after the other until the process is ended.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let (mut map, mut out) = (HashMap::<[u8; KEY_BYTES], Vec<u8>>::new(), Vec::new());
    for socket in listener.incoming() {
        let mut socket = socket?;
        socket.set_nodelay(true)?;
        let mut frame = Vec::new();
        while read_frame(&mut socket, &mut frame).is_ok() {
            out.clear();
            out.extend_from_slice(&[0; 4]);
            let mut rest = &frame[..];
            while let Some((head, behind)) = rest.split_at_checked(4 + KEY_BYTES) {
                let (len, key) = (number(head), &head[4..]);
                let key: [u8; KEY_BYTES] = key.try_into()?;
                rest = behind;
                if len == GET {
                    let found = map.get(&key).map_or(&[][..], Vec::as_slice);
                    out.extend_from_slice(&(found.len() as u32).to_le_bytes());
                    out.extend_from_slice(found);
                } else {
                    let (value, behind) = rest.split_at(len as usize);
                    rest = behind;
                    let slot = map.entry(key).or_default();
                    slot.clear();
                    slot.extend_from_slice(value);
                    out.extend_from_slice(&0_u32.to_le_bytes());
                }
            }
            let len = out.len() as u32 - 4;
            out[..4].copy_from_slice(&len.to_le_bytes());
            if socket.write_all(&out).is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn read_frame(socket: &mut TcpStream, frame: &mut Vec<u8>) -> std::io::Result<()> {
    let mut len = [0; 4];
    socket.read_exact(&mut len)?;
    frame.resize(u32::from_le_bytes(len) as usize, 0);
    socket.read_exact(frame)
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The map in a process of its own.
pub struct Tcp(Peer);

impl Tcp {
    /// Starts it.
    pub fn start() -> Result<Self> {
        Ok(Self(Peer::start(SERVE)?))
    }

    pub fn process_id(&self) -> u32 {
        self.0.process_id()
    }

    /// Puts every key with stamp 0.
    pub fn fill(&mut self, data: &Data) -> Result<()> {
        let mut socket = self.connect()?;
        let (mut out, mut answer) = (Vec::new(), Vec::new());
        for first in (0..data.len()).step_by(1024) {
            begin(&mut out);
            (first..data.len().min(first + 1024)).for_each(|index| put(&mut out, data, index, 0));
            send(&mut socket, &mut out)?;
            read_frame(&mut socket, &mut answer)?;
        }
        Ok(())
    }

    /// Returns operations per second.
    pub fn measure(&mut self, batch: usize, load: &mut Load<'_>) -> Result<f64> {
        let (data, keys) = (load.data, load.data.len());
        let ledger = load.books.of(Op::Mixed);
        let mut socket = self.connect()?;
        let (mut out, mut answer, mut sent) = (Vec::new(), Vec::new(), 0_u64);
        let mut flying: VecDeque<Vec<Option<u32>>> = VecDeque::new();
        let started = Instant::now();
        loop {
            let over = started.elapsed() >= load.duration;
            if flying.len() == IN_FLIGHT || (over && !flying.is_empty()) {
                read_frame(&mut socket, &mut answer)?;
                check(data, &answer, &flying.pop_front().context("batches are in flight")?)?;
            }
            if over && flying.is_empty() {
                break;
            }
            if over {
                continue;
            }
            begin(&mut out);
            let mut asked = Vec::with_capacity(batch);
            for place in 0..batch {
                let index = load.random.below(keys);
                if place % 2 == 0 {
                    put(&mut out, data, index, ledger.write(index));
                    asked.push(None);
                } else {
                    get(&mut out, data, index);
                    asked.push(Some(index));
                }
            }
            send(&mut socket, &mut out)?;
            flying.push_back(asked);
            sent += batch as u64;
        }
        let rate = sent as f64 / started.elapsed().as_secs_f64();
        read_back(&mut socket, data, ledger)?;
        Ok(rate)
    }

    fn connect(&self) -> Result<TcpStream> {
        let socket = TcpStream::connect(("127.0.0.1", self.0.port()))?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
}

fn put(out: &mut Vec<u8>, data: &Data, index: u32, stamp: u64) {
    out.extend_from_slice(&(VALUE_BYTES as u32).to_le_bytes());
    out.extend_from_slice(data.key(index));
    out.extend_from_slice(&data.value(index, stamp));
}

fn get(out: &mut Vec<u8>, data: &Data, index: u32) {
    out.extend_from_slice(&GET.to_le_bytes());
    out.extend_from_slice(data.key(index));
}

fn send(socket: &mut TcpStream, out: &mut [u8]) -> Result<()> {
    let len = out.len() as u32 - 4;
    out[..4].copy_from_slice(&len.to_le_bytes());
    Ok(socket.write_all(out)?)
}

fn check(data: &Data, answer: &[u8], asked: &[Option<u32>]) -> Result<()> {
    let mut rest = answer;
    for index in asked {
        let (head, behind) = rest.split_at_checked(4).context("the answer ends too early")?;
        let (value, behind) = behind.split_at_checked(number(head) as usize).context("the answer ends too early")?;
        rest = behind;
        if let Some(index) = index {
            data.check(*index, Some(value))?;
        }
    }
    ensure!(rest.is_empty(), "the answer goes on");
    Ok(())
}

fn read_back(socket: &mut TcpStream, data: &Data, ledger: &Ledger) -> Result<()> {
    let (mut out, mut answer) = (Vec::new(), Vec::new());
    for (index, _) in ledger.sample() {
        begin(&mut out);
        get(&mut out, data, index);
        send(socket, &mut out)?;
        read_frame(socket, &mut answer)?;
        ledger.check(data, index, answer.get(4..))?;
    }
    Ok(())
}
