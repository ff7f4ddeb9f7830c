//! `clients` and `whoami`: who was let in, and who we are.

use clap::{Args, Subcommand};

use super::super::connection::Session;
use super::super::error::{Failure, check_refused};
use super::super::{Manner, render};
use super::{tell_done, tell_list};
use crate::core::view::ClientInfo;
use crate::say::tell;
use crate::wire;

/// `clients`.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientsArgs {
    /// What to do; nothing: list them
    #[command(subcommand)]
    pub action: Option<ClientsAction>,
}

/// What can be done with clients.
#[derive(Subcommand, Clone, Debug)]
pub enum ClientsAction {
    /// Let one in no longer, and cut its connections; its jobs go on
    Revoke {
        /// Its name
        name: String,
    },
}

/// Lists or revokes clients.
///
/// # Errors
/// When it is not the caller's own pool, or there is no such client.
pub async fn clients(session: &mut Session, args: &ClientsArgs, manner: Manner) -> Result<u8, Failure> {
    match &args.action {
        None => list(&all(session).await?, manner),
        Some(ClientsAction::Revoke { name }) => {
            let admin = session.admin().await?;
            let mut request = admin.revoke_client_request();
            request.get().set_name(name.as_str());
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            check_refused(answer.has_refused(), answer.get_refused())?;
            let document = serde_json::json!({ "v": 1, "revoked": name.as_str() });
            tell_done(manner, &format!("revoked {name}"), name, document);
        }
    }
    Ok(0)
}

/// Who we are to the pool that is meant.
///
/// # Errors
/// When it cannot be reached, or does not know us.
pub async fn whoami(session: &mut Session, manner: Manner) -> Result<u8, Failure> {
    session.pool().await?;
    let is_admin = session.admin().await.is_ok();
    let welcome = session.welcome().expect("it was just connected").clone();
    let key = session.key().map(|key| key.to_string());
    let role = if is_admin { "admin" } else { "client" };
    let mut sentence = match is_admin {
        true => format!("{}, the user of pool \"{}\"", welcome.you, welcome.pool),
        false => format!("{}, a client of pool \"{}\"", welcome.you, welcome.pool),
    };
    match is_admin {
        true => sentence += "\n  sees    everybody's jobs",
        false => sentence += &format!("\n  sees    jobs of {}", welcome.owner),
    }
    if let Some(key) = &key {
        sentence += &format!("\n  key     {key}");
    }
    let document = serde_json::json!({
        "v": 1, "name": welcome.you, "role": role, "owner": welcome.owner, "pool": welcome.pool, "key": key,
    });
    tell_done(manner, &sentence, &welcome.you, document);
    Ok(0)
}

async fn all(session: &mut Session) -> Result<Vec<ClientInfo>, Failure> {
    let admin = session.admin().await?;
    let mut clients: Vec<ClientInfo> = Vec::new();
    loop {
        let mut request = admin.clients_request();
        request.get().set_after(clients.last().map_or("", |last| last.name.as_str()));
        request.get().set_limit(1000);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        for client in answer.get_clients()? {
            clients.push(wire::client::read_info(client)?);
        }
        if !answer.get_more() {
            return Ok(clients);
        }
    }
}

fn list(clients: &[ClientInfo], manner: Manner) {
    let state = |client: &ClientInfo| match (client.revoked, client.connections) {
        (true, _) => "revoked",
        (false, 0) => "away",
        (false, _) => "connected",
    };
    let json = |client: &ClientInfo| {
        serde_json::json!({
            "v": 1, "name": client.name, "owner": client.owner, "state": state(client),
            "connections": client.connections, "joined": render::rfc3339(client.joined),
            "key": client.key.to_string(),
        })
    };
    let people = |clients: &[ClientInfo]| {
        if clients.is_empty() {
            tell!("no clients; let one in with: clusterctl token create --client");
            return;
        }
        let row = |client: &ClientInfo| {
            vec![
                client.name.clone(),
                client.owner.clone(),
                state(client).to_owned(),
                render::rfc3339(client.joined),
                client.key.to_string(),
            ]
        };
        let header = ["NAME", "OWNER", "STATE", "JOINED", "KEY"];
        crate::say::result(format_args!("{}", render::table(&header, clients.iter().map(row).collect())));
    };
    tell_list(manner, clients, |client| client.name.clone(), people, json);
}
