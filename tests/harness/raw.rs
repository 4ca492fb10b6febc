//! A client that is only bytes, for what no real client would send. Every read has a deadline.

use crate::LIMIT;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use jiff::Timestamp;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, MetadataRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable as _, Encodable, HeaderVersion, Request, StrBytes};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes of an answer: a thousand topics with all of their partitions are less.
const MAX_ANSWER: i32 = 16 << 20;

/// What [`api_versions`] says that it is.
pub const SOFTWARE: (&str, &str) = ("kferry-raw", "1.2.3");

/// A whole frame with an ApiVersions request, version 3.
pub fn api_versions(correlation_id: i32, client_id: Option<&str>) -> Vec<u8> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str(SOFTWARE.0))
        .with_client_software_version(StrBytes::from_static_str(SOFTWARE.1));
    request_frame(ApiKey::ApiVersions, 3, correlation_id, client_id, &request)
}

/// A whole frame with a Metadata request for no topic, version 1.
pub fn metadata(correlation_id: i32, client_id: Option<&str>) -> Vec<u8> {
    request_frame(ApiKey::Metadata, 1, correlation_id, client_id, &MetadataRequest::default().with_topics(Some(Vec::new())))
}

/// A whole frame with any request.
pub fn request_frame<R: Encodable + HeaderVersion>(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &R,
) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(client_id.map(|id| StrBytes::from_string(id.to_owned())));
    let mut body = Vec::new();
    header.encode(&mut body, R::header_version(version)).expect("this version has this header");
    request.encode(&mut body, version).expect("this version has these fields");
    frame(&body)
}

/// A whole frame with any request.
pub fn request<R: Request>(version: i16, correlation_id: i32, client_id: &str, request: &R) -> Result<Vec<u8>> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())));
    let mut body = Vec::new();
    header.encode(&mut body, R::header_version(version))?;
    request.encode(&mut body, version)?;
    Ok(frame(&body))
}

/// Sends any request and reads its answer.
pub fn ask<R: Request>(client: &mut Raw, version: i16, client_id: &str, question: &R) -> Result<R::Response> {
    client.send(&request(version, 77, client_id, question)?)?;
    answer::<R>(client, version, 77)
}

/// Reads the answer to a request of this correlation id.
pub fn answer<R: Request>(client: &mut Raw, version: i16, correlation_id: i32) -> Result<R::Response> {
    let mut answer = Bytes::from(client.frame()?);
    let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
    ensure!(
        header.correlation_id == correlation_id,
        "the answer's correlation id is {}, the request's {correlation_id}",
        header.correlation_id
    );
    let response = R::Response::decode(&mut answer, version).with_context(|| format!("API {} v{version}", R::KEY))?;
    ensure!(answer.is_empty(), "{} bytes behind the answer of API {} v{version}", answer.len(), R::KEY);
    Ok(response)
}

/// `body` with its size in front.
pub fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes()[..], body].concat()
}

/// A connection, and when it was opened.
#[derive(Debug)]
pub struct Raw(TcpStream, Timestamp);

impl Raw {
    /// To a port of 127.0.0.1.
    pub fn connect(port: u16) -> Result<Self> {
        let opened = Timestamp::now();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self(stream, opened))
    }

    /// When it was opened: of two connections that got the same port, one after the other, the proxy's log knows which
    /// one it speaks of by this.
    pub fn opened(&self) -> Timestamp {
        self.1
    }

    /// Its own port: by it, the proxy's log tells connections apart.
    pub fn local_port(&self) -> Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// Sends all of them.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).context("the peer takes no bytes")
    }

    /// Says that no more will be sent.
    pub fn half_close(&mut self) -> Result<()> {
        Ok(self.0.shutdown(Shutdown::Write)?)
    }

    /// The next frame, without its size.
    pub fn frame(&mut self) -> Result<Vec<u8>> {
        let mut size = [0; 4];
        self.0.read_exact(&mut size).context("no answer")?;
        let size = i32::from_be_bytes(size);
        ensure!((4..MAX_ANSWER).contains(&size), "an answer of {size} bytes");
        let mut body = vec![0; size as usize];
        self.0.read_exact(&mut body).context("the answer breaks off")?;
        Ok(body)
    }

    /// Sends a request and checks that its answer, and no other one, comes.
    pub fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.send(request)?;
        let answer = self.frame()?;
        ensure!(answer[..4] == request[8..12], "the answer's correlation id is {:?}, the request's {:?}", &answer[..4], &request[8..12]);
        Ok(answer)
    }

    /// Reads what is there into `buf`, at least a byte; 0 at the end.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        Ok(self.0.read(buf)?)
    }

    /// Everything until the peer closes the connection, also if it does so by a reset.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        match self.0.read_to_end(&mut all) {
            Ok(_) => Ok(all),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(all),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the peer has not closed the connection within {LIMIT:?}; it sent {} bytes", all.len())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Checks that the peer sends nothing more and closes the connection in good order: after a reset something that it has sent may be lost.
    pub fn ends(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "{} bytes more came", rest.len());
        Ok(())
    }

    /// Checks that nothing comes for `time`, not even the end.
    pub fn is_quiet(&mut self, time: Duration) -> Result<()> {
        self.0.set_read_timeout(Some(time))?;
        let read = self.0.read(&mut [0; 64]);
        self.0.set_read_timeout(Some(LIMIT))?;
        match read {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Ok(0) => bail!("the peer closed the connection"),
            Ok(n) => bail!("{n} bytes came"),
            Err(error) => Err(error.into()),
        }
    }
}

/// Raises this process's limit of open files as far as it may: shells start with 1,024.
pub fn open_many_files() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Waits until `condition` holds, at most [`LIMIT`]; `what` says what was waited for.
pub fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition()? {
        ensure!(Instant::now() < deadline, "waited {LIMIT:?} until {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A port that leads to a server, and later to another one: what a name or an address does whose host has changed.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    server: Arc<Mutex<String>>,
    requests: Requests,
}

/// The API keys and versions of what clients have sent.
type Requests = Arc<Mutex<BTreeSet<(i16, i16)>>>;

impl Forward {
    /// Leads to a server, `HOST:PORT`, until the test program ends.
    pub fn to(server: &str) -> Result<Self> {
        Self::begin_with(0, server, b"")
    }

    /// A load balancer on this port (0 for any): each connection to the server begins with `header`, before what the client says.
    pub fn begin_with(port: u16, server: &str, header: &'static [u8]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("no port for the forward")?;
        let address = listener.local_addr()?;
        let server = Arc::new(Mutex::new(server.to_owned()));
        let requests = Requests::default();
        let (leads_to, noted) = (server.clone(), requests.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = leads_to.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // Whoever cannot be led there sees its connection end.
                let Ok(mut server) = TcpStream::connect(server) else { continue };
                if server.write_all(header).is_err() {
                    continue;
                }
                let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { continue };
                let noted = noted.clone();
                thread::spawn(move || {
                    let mut heads = Heads::default();
                    pass_on(client, server, |bytes| heads.note(bytes, &noted));
                });
                thread::spawn(move || pass_on(server_too, client_too, |_| {}));
            }
        });
        Ok(Self { address, server, requests })
    }

    /// For `bootstrap_servers`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The API keys and versions of the requests that came so far.
    pub fn requests(&self) -> BTreeSet<(i16, i16)> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where connections lead from now on. Those that are open stay where they are.
    pub fn lead_to(&self, server: &str) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server.into();
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        look(&bytes[..read]);
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // However it ends, so does the other direction.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// What requests begin with, in whatever pieces they come.
#[derive(Default)]
struct Heads {
    /// Size, key and version, as far as they are there.
    head: Vec<u8>,
    /// Bytes until the next one.
    rest: usize,
}

impl Heads {
    fn note(&mut self, mut bytes: &[u8], requests: &Mutex<BTreeSet<(i16, i16)>>) {
        while !bytes.is_empty() {
            let passed = self.rest.min(bytes.len());
            let taken = if passed < self.rest { 0 } else { (8 - self.head.len()).min(bytes.len() - passed) };
            self.rest -= passed;
            self.head.extend_from_slice(&bytes[passed..passed + taken]);
            bytes = &bytes[passed + taken..];
            if let [a, b, c, d, k, l, v, w] = self.head[..] {
                // What is no Kafka has any size.
                self.rest = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                let request = (i16::from_be_bytes([k, l]), i16::from_be_bytes([v, w]));
                requests.lock().unwrap_or_else(PoisonError::into_inner).insert(request);
                self.head.clear();
            }
        }
    }
}
