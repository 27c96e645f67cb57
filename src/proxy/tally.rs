//! Exchanges counted by route class: the counters are looked up once for each thread, not once for each exchange.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::gms::RouteClass;
use crate::telemetry::metrics::Metrics;

/// As the label `status` names them; the last is a client that left before its answer.
const STATUSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "left"];
const LEFT: usize = STATUSES.len() - 1;

/// The counters of all route classes.
#[derive(Debug)]
pub struct Tally(Vec<(RouteClass, Counted)>);

/// The counters of one.
#[derive(Debug)]
pub struct Counted {
    requests: [Counter; STATUSES.len()],
    seconds: Histogram,
}

impl Tally {
    /// Finds them.
    pub fn new(metrics: &Metrics) -> Self {
        let counted = |class: RouteClass| {
            let route = || ("route", class.as_str().to_string());
            let counter = |status: &str| metrics.requests.get_or_create(&[route(), ("status", status.into())]).clone();
            let seconds = metrics.request_seconds.get_or_create(&[route()]).clone();
            (class, Counted { requests: STATUSES.map(counter), seconds })
        };
        Self(RouteClass::ALL.map(counted).into())
    }

    /// Those of a class.
    pub fn of(&self, class: RouteClass) -> &Counted {
        let found = self.0.iter().find(|(known, _)| *known == class);
        &found.expect("all classes are in it").1
    }
}

impl Counted {
    /// An answer's head went out, so long after its request came.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.requests[class].inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A client left before its answer.
    pub fn left(&self) {
        self.requests[LEFT].inc();
    }
}
