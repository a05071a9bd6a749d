//! Leads a run that is divided among workers.

use super::course::{Course, Next};
use super::proto::worker_client::WorkerClient;
use super::proto::{Go, Job, Order, Report, order, report::What};
use super::split::{Share, split};
use super::token::Token;
use super::{
    ALIVE_EVERY, ALIVE_MAX, AUTHORITIES_BYTES_MAX, CONNECT_MAX, ORDER_BYTES_MAX, ORDERS_MAX, REPORT_BYTES_MAX, VERSION, WORKERS_MAX,
};
use super::{local, wire};
use crate::file::File;
use crate::progress::Progress;
use crate::scenario::Outcome;
use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::{SelectAll, once};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

/// Workers, connected.
pub struct Controller {
    workers: Vec<Worker>,
    token: Option<Token>,
    progress: Progress,
    /// Those that were started here.
    local: Vec<local::Process>,
}

struct Worker {
    name: String,
    /// It was started here, and speaks on this process's standard error.
    local: bool,
    channel: Channel,
}

/// What a worker is told, and what it tells.
type Line = (mpsc::Sender<Order>, Streaming<Report>);

impl Controller {
    /// Connects to workers, each host and port.
    ///
    /// # Errors
    /// Too many, one twice, or one that is not there.
    pub async fn connect(addresses: &[String], token: Option<Token>) -> Result<Controller> {
        ensure!(addresses.len() <= WORKERS_MAX, "{} workers are more than {WORKERS_MAX}", addresses.len());
        if let Some(twice) = addresses.iter().enumerate().find(|(i, a)| addresses[..*i].contains(a)) {
            bail!("worker {} stands there twice; it takes one run at a time", twice.1);
        }
        let workers = try_join_all(addresses.iter().map(|address| Worker::connect(address))).await?;
        Ok(Controller { workers, token, progress: Progress::default(), local: Vec::new() })
    }

    /// Starts so many workers on this host, which end with this.
    ///
    /// # Errors
    /// Too many, or one that does not start.
    pub async fn spawn(program: &Path, workers: usize) -> Result<Controller> {
        ensure!((1..=WORKERS_MAX).contains(&workers), "1 to {WORKERS_MAX} workers, not {workers}");
        // Others on this host are kept out.
        let token = Token::random()?;
        let local = local::start(program, workers, &token)?;
        let addresses: Vec<_> = local.iter().map(|process| process.address.clone()).collect();
        let mut controller = Controller::connect(&addresses, Some(token)).await?;
        for (worker, process) in controller.workers.iter_mut().zip(&local) {
            (worker.name, worker.local) = (format!("{} (process {})", worker.name, process.id()), true);
        }
        Ok(Controller { local, ..controller })
    }

    /// Runs a file. When this ends, or is dropped, all workers stop.
    ///
    /// # Errors
    /// A worker that refuses, fails or dies; the others stop.
    pub async fn run(&self, file: &File) -> Result<Outcome> {
        let outcome = self.lead(file).await;
        self.progress.end();
        outcome
    }

    async fn lead(&self, file: &File) -> Result<Outcome> {
        let mut shares = split(file, self.workers.len())?;
        if shares.len() < self.workers.len() {
            eprintln!("{}: there is enough for {} of {} workers", file.work.name(), shares.len(), self.workers.len());
        }
        if !self.local.is_empty() {
            local::share_sources(&mut shares)?;
        }
        let workers = &self.workers[..shares.len()];
        let names: Vec<_> = workers.iter().map(|worker| worker.name.as_str()).collect();
        let mut course = Course::new(file, &names, &self.progress).await?;
        let jobs = jobs(&shares, authorities(file.server.ca.as_deref())?)?;
        let lines = try_join_all(workers.iter().zip(jobs).map(|(worker, job)| worker.begin(job, self.token.as_ref()))).await?;
        let (orders, mut reports) = (lines.iter().map(|line| line.0.clone()).collect::<Vec<_>>(), SelectAll::new());
        for (i, (_, told)) in lines.into_iter().enumerate() {
            // The end of a stream is told, too.
            let told = told.map(Some).chain(once(std::future::ready(None)));
            reports.push(told.map(move |report| (i, report)).boxed());
        }
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                Some((i, report)) = reports.next() => match workers[i].what(report) {
                    Ok(what) => course.take(i, what).await.with_context(|| format!("worker {}", workers[i].name))?,
                    // The others may still have something to do.
                    Err(_) if course.has_outcome(i) => Next::Read,
                    Err(error) => return Err(error),
                },
                _ = seconds.tick() => {
                    course.gather();
                    Next::Read
                }
            };
            match next {
                Next::Read => {}
                Next::End => return course.end(),
                Next::Go => {
                    for (order, worker) in orders.iter().zip(workers) {
                        let go = Order { what: Some(order::What::Go(Go {})) };
                        order.try_send(go).with_context(|| format!("worker {} does not read", worker.name))?;
                    }
                }
            }
        }
    }
}

impl Worker {
    async fn connect(address: &str) -> Result<Worker> {
        let there = async {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_MAX).tcp_nodelay(true);
            let endpoint = endpoint.http2_keep_alive_interval(ALIVE_EVERY).keep_alive_timeout(ALIVE_MAX).keep_alive_while_idle(true);
            anyhow::Ok(endpoint.connect().await?)
        };
        let channel = there.await.with_context(|| {
            format!("worker {address} cannot be reached; start it there with `loadtest worker --listen ADDRESS:PORT --token FILE`")
        })?;
        Ok(Worker { name: address.to_owned(), local: false, channel })
    }

    async fn begin(&self, job: Job, token: Option<&Token>) -> Result<Line> {
        let (orders, mut given) = mpsc::channel(ORDERS_MAX);
        orders.try_send(Order { what: Some(order::What::Job(job)) }).context("no room for a job")?;
        let client = WorkerClient::new(self.channel.clone()).max_decoding_message_size(REPORT_BYTES_MAX);
        let mut request = Request::new(futures::stream::poll_fn(move |cx| given.poll_recv(cx)));
        if let Some(token) = token {
            token.give(request.metadata_mut())?;
        }
        let mut client = client.max_encoding_message_size(ORDER_BYTES_MAX);
        let answer = tokio::time::timeout(CONNECT_MAX * 2, client.run(request)).await;
        let answer = answer.map_err(|_| anyhow!("worker {} does not answer; start it again", self.name))?;
        Ok((orders, answer.map_err(|status| self.refused(&status))?.into_inner()))
    }

    /// Why there is no run, and what helps.
    fn refused(&self, status: &Status) -> Error {
        let (name, message) = (&self.name, wire::bounded(status.message()));
        match status.code() {
            Code::Unauthenticated => anyhow!("worker {name} refuses the token: give --token or LOADTEST_TOKEN as the worker has it"),
            Code::ResourceExhausted => anyhow!("worker {name} refuses: {message}; wait for its end, or leave the worker out"),
            Code::FailedPrecondition => anyhow!("worker {name} {message}"),
            Code::Unimplemented => anyhow!("{name} is no worker of loadtest"),
            Code::InvalidArgument | Code::Internal => anyhow!("worker {name}: {message}"),
            _ => self.gone(&message),
        }
    }

    fn gone(&self, why: &str) -> Error {
        let (name, then) = (&self.name, if self.local { "see above why" } else { "see there why, start it again" });
        anyhow!("worker {name} is gone ({why}): {then}, and run again; the other workers stop")
    }

    fn what(&self, report: Option<Result<Report, Status>>) -> Result<What> {
        match report {
            Some(Ok(Report { what: Some(what) })) => Ok(what),
            Some(Ok(_)) => bail!("worker {} tells what this version does not know", self.name),
            Some(Err(status)) => Err(self.gone(&wire::bounded(status.message()))),
            None => Err(self.gone("it has ended the run")),
        }
    }
}

fn jobs(shares: &[Share], authorities: Option<Vec<u8>>) -> Result<Vec<Job>> {
    let parts = u32::try_from(shares.len())?;
    let job = |(number, share): (u32, &Share)| {
        let (before, part, authorities) = (share.before, share.share, authorities.clone());
        let (version, scenario) = (VERSION.to_owned(), share.file.text()?);
        Ok(Job { version, scenario, authorities, number, parts, before, share: part })
    };
    (1..).zip(shares).map(job).collect()
}

/// Workers need not have the file.
fn authorities(ca: Option<&Path>) -> Result<Option<Vec<u8>>> {
    let Some(path) = ca else { return Ok(None) };
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(AUTHORITIES_BYTES_MAX + 1).read_to_end(&mut text));
    let bytes = read.with_context(|| format!("{}", path.display()))?;
    ensure!(u64::try_from(bytes)? <= AUTHORITIES_BYTES_MAX, "{} has more than {AUTHORITIES_BYTES_MAX} bytes", path.display());
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_that_cannot_be() {
        let why = async |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|a| (*a).to_owned()).collect();
            format!("{:#}", Controller::connect(&addresses, None).await.err().unwrap())
        };
        assert!(why(&["a:1", "b:1", "a:1"]).await.contains("worker a:1 stands there twice"));
        assert!(why(&["127.0.0.1:1"]).await.starts_with("worker 127.0.0.1:1 cannot be reached; start it there"));
        let many: Vec<_> = (0..=WORKERS_MAX).map(|i| format!("a:{i}")).collect();
        let many = Controller::connect(&many, None).await.err().unwrap();
        assert_eq!(many.to_string(), "257 workers are more than 256");
    }

    #[test]
    fn certificates_have_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, vec![b'a'; 1 << 20]).unwrap();
        assert_eq!(authorities(Some(&file)).unwrap().map(|text| text.len()), Some(1 << 20));
        std::fs::write(&file, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert!(authorities(Some(&file)).unwrap_err().to_string().contains("more than 1048576 bytes"));
        assert_eq!(authorities(None).unwrap(), None);
    }
}
