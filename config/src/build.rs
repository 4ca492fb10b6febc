//! Drafts to checked types. A draft of which a part could not be read gives none: the error has been reported.

use std::sync::Arc;

use crate::read::mirrors::MirrorDraft;
use crate::read::table::{At, Field, Reported};
use crate::read::{ClusterDraft, CredentialsDraft, Draft, ListenerDraft, RouteDraft, StateDraft, UserDraft};
use crate::types::Config;
use crate::types::cluster::{Cluster, Sasl};
use crate::types::mirror::Mirror;
use crate::types::moves::State;
use crate::types::proxy::{Admin, Listener, Route, User};

/// The checked types, unless an error was reported.
pub(crate) fn config(draft: Draft<'_>) -> Field<Config> {
    let clusters = draft.clusters?.into_iter().map(|cluster| cluster.build().map(Arc::new)).collect::<Field<Vec<_>>>()?;
    let listeners = draft.listeners?.into_iter().map(ListenerDraft::build).collect::<Field<_>>()?;
    let users = draft.users?.into_iter().map(UserDraft::build).collect::<Field<_>>()?;
    let routes = draft.routes?.into_iter().map(|route| route.build(&clusters).map(Arc::new)).collect::<Field<_>>()?;
    let mirrors = draft.mirrors?.into_iter().map(|mirror| mirror.build(&clusters).map(Arc::new)).collect::<Field<_>>()?;
    let state = draft.state?.map(|state| state.build(&clusters)).transpose()?;
    Ok(Config {
        clusters,
        listeners,
        users,
        admin: draft.admin.map(|admin| Admin { bind: admin.bind.value, mirror_bind: admin.mirror_bind.value })?,
        limits: draft.limits?,
        routes,
        mirrors,
        state,
        moves: draft.moves?.value,
        warnings: Vec::new(),
    })
}

impl ClusterDraft<'_> {
    fn build(self) -> Field<Cluster> {
        Ok(Cluster {
            name: self.name.value.into(),
            id: self.id?.value,
            bootstrap_servers: self.bootstrap_servers?,
            brokers: self.brokers?.map(|brokers| brokers.value),
            security: self.security?,
        })
    }
}

impl ListenerDraft<'_> {
    fn build(self) -> Field<Listener> {
        let broker_port_offset = self.broker_port_offset?.value;
        Ok(Listener {
            name: self.name?.value.into(),
            bind: self.bind?.value,
            advertised_host: self.advertised_host?,
            broker_port_offset,
            advertised_port_offset: self.advertised_port_offset?.map_or(broker_port_offset, |offset| offset.value),
            proxy_protocol_from: self.proxy_protocol_from?,
            tls: self.tls?,
            sasl_mechanisms: self.sasl_mechanisms?,
        })
    }
}

impl UserDraft<'_> {
    fn build(self) -> Field<User> {
        Ok(User { name: self.name.value.into(), password: self.password? })
    }
}

impl RouteDraft<'_> {
    fn build(self, clusters: &[Arc<Cluster>]) -> Field<Route> {
        let name = self.cluster?.value;
        let cluster = clusters.iter().find(|cluster| &*cluster.name == name).cloned().ok_or(Reported)?;
        let credentials = self.credentials?.into_iter().map(|credentials| credentials.build(clusters)).collect::<Field<_>>()?;
        let sasl_users = self.sasl_users?.into_iter().map(|user| user.value.into()).collect();
        Ok(Route {
            name: self.name?.value.into(),
            clients: self.clients?.value,
            cluster,
            mode: self.mode?,
            stopped: self.stopped?.is_some_and(|stopped| stopped.value),
            credentials,
            sasl_users,
            owns_topics: self.topics?.selection,
            owns_groups: self.groups?.selection,
        })
    }
}

impl CredentialsDraft<'_> {
    fn build(self, clusters: &[Arc<Cluster>]) -> Field<(Arc<str>, Sasl)> {
        let cluster = clusters.iter().find(|cluster| &*cluster.name == self.cluster.value).ok_or(Reported)?;
        Ok((cluster.name.clone(), self.sasl?))
    }
}

impl StateDraft<'_> {
    fn build(self, clusters: &[Arc<Cluster>]) -> Field<State> {
        let name = self.cluster?.value;
        let cluster = clusters.iter().find(|cluster| &*cluster.name == name).cloned().ok_or(Reported)?;
        Ok(State { cluster })
    }
}

impl MirrorDraft<'_> {
    fn build(self, clusters: &[Arc<Cluster>]) -> Field<Mirror> {
        let cluster = |name: At<&str>| clusters.iter().find(|cluster| &*cluster.name == name.value).cloned().ok_or(Reported);
        Ok(Mirror {
            name: self.name?.value.into(),
            source: cluster(self.source?)?,
            target: cluster(self.target?)?,
            topics: self.topics?.selection,
            groups: self.groups?.selection,
            groups_interval: self.groups_interval?,
            offsets: self.offsets?,
            on_error: self.on_error?,
            on_lost: self.on_lost?,
            naming: self.naming?.naming,
            topic_config: self.topic_config?,
            sync_topic_configs: self.sync_topic_configs?,
            replication_factor: self.replication_factor?,
            max_padding: self.max_padding?,
            max_bytes_per_second: self.max_bytes_per_second?,
        })
    }
}
