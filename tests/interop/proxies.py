"""Proxies, TLS ends and web servers that nobody here wrote, on the loopback interface.

A pytest plugin: ``pytest_plugins = ["proxies"]`` gives a test module the fixtures. Each program is
started when a test needs it first, with a configuration of its own in a temporary folder, and is
ended behind the last test. When a test fails, what they said last is part of the report.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from peers import HERE, announced, program
from process import Process
from witness import (
    CERTIFICATES,
    CERTS,
    PASSWORD,
    PLAIN_PASSWORD,
    REALM,
    STRONG,
    TLS_VERSIONS,
    USER,
    free_port,
    trusting,
)

# PASSWORD as crypt(3) has it, by "openssl passwd -6 -salt interop".
CRYPTED = (
    "$6$interop$"
    "HYecLV3HHuTKpqTXA3bBRsDnitNQ9o7mz.1VPtgl8gDVTMGgCHZlkiaXEng8XNwam0JZxPNdVoTDPSiZUVnsZ/"
)


# -- what is common --


def loopback(port=0):
    """Listening sockets with the same port for each address that ``localhost`` may stand for."""
    for _ in range(100):
        first = socket.create_server(("127.0.0.1", port), backlog=512)
        try:
            address = ("::1", first.getsockname()[1])
            return [first, socket.create_server(address, family=socket.AF_INET6, backlog=512)]
        except OSError:
            if not socket.has_ipv6:
                return [first]
            first.close()
    raise OSError("no port is free for both families")


def free_ports(*names):
    return {name: free_port() for name in names}


def accepts(process, port, timeout=10):
    """Wait until *process*, which doesn't tell when it listens, does."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                problem = f"{process.name} doesn't listen:\n{process.output()}"
                raise AssertionError(problem) from None
            time.sleep(0.01)


def digest_users(algorithm, *users):
    """What a server keeps for Digest (RFC 7616, 3.4.2): a line for each of *users*."""
    lines = ""
    for user in users:
        key = hashlib.new(algorithm, f"{user}:{REALM}:{PASSWORD}".encode())
        lines += f"{user}:{REALM}:{key.hexdigest()}\n"
    return lines


class Software:
    """The programs that run, started on demand."""

    def __init__(self, stack):
        self._stack = stack
        self.processes = {}
        self._ports = {}
        # Not below pytest's own: squid and others leave root behind, and must get in.
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.folder.chmod(0o755)

    def port(self, name, which):
        """The port of a program that has the purpose *which*."""
        return self.ports(name)[which]

    def ports(self, name):
        if name not in self._ports:
            self._ports[name] = STARTERS[name](self)
        return self._ports[name]

    def run(self, name, command, env=None, **options):
        process = self._stack.enter_context(Process(name, command, env, **options))
        self.processes[name] = process
        return process

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def subfolder(self, name):
        path = self.folder / name
        path.mkdir()
        return path


# -- the programs --


def witness(software):
    command = [sys.executable, HERE / "servers" / "witness_server.py", CERTS / "server.pem"]
    return announced(software.run("witness", command))


SQUID = """
{listen}
auth_param basic program {helpers}/basic_ncsa_auth {basic}
auth_param basic children 1 startup=1
auth_param basic realm {realm}
auth_param digest program {helpers}/digest_file_auth -c {digest}
auth_param digest children 1 startup=1
auth_param digest realm {realm}
acl plain myportname plain
acl basic myportname basic
acl digest myportname digest
acl both myportname both
auth_schemes basic basic
auth_schemes digest digest
auth_schemes basic,digest both
acl forbidden port 9
acl known proxy_auth REQUIRED
http_access deny forbidden
http_access allow plain
http_access allow known
http_access deny all
cache deny all
cache_log /dev/null
access_log none
pid_filename none
coredump_dir none
pinger_enable off
visible_hostname localhost
shutdown_lifetime 0 seconds
"""


def squid(software):
    ports = free_ports("plain", "basic", "digest", "both")
    listen = "\n".join(f"http_port 127.0.0.1:{port} name={name}" for name, port in ports.items())
    config = SQUID.format(
        listen=listen,
        helpers="/usr/lib/squid",
        realm=REALM,
        basic=software.write("squid.basic", f"{USER}:{CRYPTED}\n"),
        digest=software.write("squid.digest", digest_users("md5", USER, STRONG)),
    )
    path = software.write("squid.conf", config)
    process = software.run("squid", [program("squid"), "-N", "-d", "1", "-f", path])
    for port in ports.values():
        accepts(process, port)  # It tells a moment too early.
    return ports


TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 60
LogLevel Connect
"""


def tinyproxy(software):
    ports = free_ports("plain", "basic")
    for name, port in ports.items():
        config = TINYPROXY.format(port=port)
        if name == "basic":
            config += f"BasicAuth {USER} {PLAIN_PASSWORD}\n"
        path = software.write(f"tinyproxy-{name}.conf", config)
        process = software.run(f"tinyproxy-{name}", [program("tinyproxy"), "-d", "-c", path])
        accepts(process, port)
    return ports


DANTE = """
logoutput: stderr
internal: 127.0.0.1 port = {port}
external: lo
clientmethod: none
socksmethod: none
{user}
client pass {{ from: 127.0.0.0/8 to: 127.0.0.0/8 }}
socks block {{ from: 127.0.0.0/8 to: 0.0.0.0/0 port = 9 command: connect }}
socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 command: connect }}
socks pass {{ from: 127.0.0.0/8 to: ::/0 command: connect }}
"""


def dante(software):
    port = free_port()
    user = "user.privileged: root\nuser.unprivileged: nobody" if os.getuid() == 0 else ""
    path = software.write("danted.conf", DANTE.format(port=port, user=user))
    command = [program("danted"), "-f", path, "-p", software.folder / "danted.pid"]
    process = software.run("dante", command)
    process.wait_for("running")
    return {"plain": port}


def microsocks(software):
    ports = free_ports("plain", "password")
    for name, port in ports.items():
        command = [program("microsocks"), "-i", "127.0.0.1", "-p", str(port)]
        if name == "password":
            command += ["-u", USER, "-P", PASSWORD]
        accepts(software.run(f"microsocks-{name}", command), port)
    return ports


SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin yes
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
"""


def openssh(software):
    """The SOCKS server of ``ssh -D``, which knows SOCKS4a, where dante has SOCKS4 only."""
    server, port = free_port(), free_port()
    folder = software.subfolder("openssh")
    key = folder / "key"
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    path = software.write("sshd.conf", SSHD.format(port=server, folder=folder))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself in
    sshd = software.run("sshd", [program("sshd"), "-D", "-e", "-f", path])
    sshd.wait_for(f"Server listening on 127.0.0.1 port {server}")
    options = {
        "DynamicForward": f"127.0.0.1:{port}",
        "ExitOnForwardFailure": "yes",
        "IdentityFile": key,
        "IdentitiesOnly": "yes",
        "NoHostAuthenticationForLocalhost": "yes",
        "BatchMode": "yes",
    }
    command = [program("ssh"), "-N", "-v", "-F", "none", "-p", str(server)]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    ssh = software.run("ssh", [*command, "127.0.0.1"])
    ssh.wait_for("Entering interactive session")
    return {"plain": port}


STUNNEL = """
foreground = yes
pid =
syslog = no
debug = notice
"""
STUNNEL_SERVICE = """
[{name}]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{backend}
cert = {certificate}
{more}
"""


def stunnel(software):
    """TLS in front of HTTP proxies, and with each of the certificates in front of squid."""
    squids, tinyproxies = software.ports("squid"), software.ports("tinyproxy")
    backends = {f"squid-{name}": (port, "server") for name, port in squids.items()}
    backends.update({f"tinyproxy-{name}": (port, "server") for name, port in tinyproxies.items()})
    backends.update({name: (squids["plain"], name) for name in CERTIFICATES})
    backends["client"] = (squids["plain"], "server")
    ports = free_ports(*backends)
    config = STUNNEL
    for name, (backend, certificate) in backends.items():
        verify = f"verifyChain = yes\nCAfile = {CERTS / 'ca.pem'}\n"
        config += STUNNEL_SERVICE.format(
            name=name,
            port=ports[name],
            backend=backend,
            certificate=CERTS / f"{certificate}.pem",
            more=verify if name == "client" else "",
        )
    path = software.write("stunnel.conf", config)
    process = software.run("stunnel", [program("stunnel"), path])
    process.wait_for("Configuration successful")
    return ports


HAPROXY = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
{frontends}
backend witness
    server witness 127.0.0.1:{witness}
"""


def haproxy(software):
    """Ends of TLS, one for each of the certificates, and some that want one of the client."""
    chosen = {name: (name, "") for name in CERTIFICATES}
    verify = f"ca-file {CERTS / 'ca.pem'} verify required"
    chosen["client"] = ("server", f"{verify} ssl-min-ver TLSv1.3")
    chosen["client-tls1.2"] = ("server", f"{verify} ssl-max-ver TLSv1.2")
    # The first one is for those who don't name a host.
    chosen["by-name"] = ("wrong-host", f"crt {CERTS / 'server.pem'}")
    frontends, ports, inherited = "", {}, []
    for name, (certificate, more) in chosen.items():
        frontends += f"frontend {name}\n    default_backend witness\n"
        for sock in loopback(0):
            inherited.append(sock)
            ports[name] = sock.getsockname()[1]
            crt = CERTS / f"{certificate}.pem"
            frontends += f"    bind fd@{sock.fileno()} ssl crt {crt} {more}\n"
    config = HAPROXY.format(frontends=frontends, witness=software.port("witness", "ws"))
    path = software.write("haproxy.conf", config)
    numbers = [sock.fileno() for sock in inherited]
    software.run("haproxy", [program("haproxy"), "-db", "-f", path], pass_fds=numbers)
    for sock in inherited:
        sock.close()
    return ports


NGINX = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    ssl_certificate {certs}/server.pem;
    ssl_certificate_key {certs}/server.pem;
    ssl_client_certificate {certs}/ca.pem;
    ssl_session_cache shared:tls:1m;
    absolute_redirect off;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    add_header X-Resumed $ssl_session_reused always;
    add_header X-Version $ssl_protocol always;
    add_header X-Server-Name $ssl_server_name always;
    {servers}
}}
"""
NGINX_SERVER = """
server {{
    {listen}
    {more}
    location / {{ proxy_pass http://127.0.0.1:{witness}; }}
    location /protected/ {{
        auth_basic {realm};
        auth_basic_user_file {passwords};
        proxy_pass http://127.0.0.1:{witness};
    }}
    location /protected/redirect {{
        auth_basic {realm};
        auth_basic_user_file {passwords};
        try_files nothing @redirect;
    }}
    location @redirect {{ return 302 $arg_to; }}
    location /page {{ return 200 "a page"; }}
    location /ended {{ return 444; }}
    location /nobody {{ proxy_pass http://unix:nobody.socket; }}
    location /here/request {{
        if ($arg_to) {{ return 302 $arg_to; }}
        proxy_pass http://127.0.0.1:{witness};
    }}
    location /longer {{ return 302 ${{uri}}x; }}
    location /cookie {{
        add_header Set-Cookie "flavour=oat" always;
        return 302 $arg_to;
    }}
    {redirects}
}}
"""
REDIRECTS = (301, 302, 303, 307, 308)


def nginx(software):
    """Redirects, Basic authentication, TLS with what it knows of it in the headers."""
    redirects = "\n    ".join(
        f"location /{code} {{ return {code} $arg_to; }}" for code in REDIRECTS
    )
    kinds = {
        "ws": "",
        "wss": "ssl_protocols TLSv1.2 TLSv1.3;",
        "tls1.2": "ssl_protocols TLSv1.2;",
        "tls1.3": "ssl_protocols TLSv1.3;",
        "client": "ssl_verify_client on;",
    }
    passwords = software.write("nginx.basic", f"{USER}:{CRYPTED}\n")
    servers, ports, inherited = "", {}, []
    for name, more in kinds.items():
        listen = ""
        for sock in loopback(0):
            inherited.append(sock)
            host = "[::1]" if sock.family == socket.AF_INET6 else "127.0.0.1"
            ports[name] = sock.getsockname()[1]
            listen += f"listen {host}:{ports[name]}{'' if name == 'ws' else ' ssl'};\n    "
        servers += NGINX_SERVER.format(
            listen=listen,
            more=more,
            realm=REALM,
            passwords=passwords,
            redirects=redirects,
            witness=software.port("witness", "ws"),
        )
    config = software.write("nginx.conf", NGINX.format(certs=CERTS, servers=servers))
    # It takes over listening sockets that it is told of, as peers.nginx says.
    numbers = [sock.fileno() for sock in inherited]
    environment = {"NGINX": "".join(f"{number};" for number in numbers)}
    command = [program("nginx"), "-p", software.subfolder("nginx"), "-c", config, "-e", "stderr"]
    software.run("nginx", command, environment, pass_fds=numbers)
    for sock in inherited:
        sock.close()
    return ports


LIGHTTPD = """
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{folder}"
server.modules = ("mod_auth", "mod_authn_file", "mod_proxy")
auth.backend = "htdigest"
auth.backend.htdigest.userfile = "{users}"
auth.require = (
    {required}
)
proxy.server = ("" => (("host" => "127.0.0.1", "port" => {witness})))
proxy.header = ("upgrade" => "enable")
"""
ALGORITHMS = {"md5": "MD5", "sha-256": "SHA-256", "both": "MD5|SHA-256"}


def lighttpd(software):
    """Digest authentication with several algorithms; the first part of the path says which."""
    port = free_port()
    rule = '"/{path}/" => ("method" => "digest", "algorithm" => "{algorithm}",'
    rule += ' "realm" => "{realm}", "require" => "valid-user"{more})'
    rules = [
        rule.format(path=path, algorithm=algorithm, realm=REALM, more="")
        for path, algorithm in ALGORITHMS.items()
    ]
    more = ', "userhash" => "enable"'
    rules.append(rule.format(path="userhash", algorithm="SHA-256", realm=REALM, more=more))
    hashed = hashlib.sha256(f"{USER}:{REALM}".encode()).hexdigest()
    users = digest_users("md5", USER)
    users += digest_users("sha256", USER).rstrip() + f":{hashed}\n" + digest_users("sha256", STRONG)
    config = LIGHTTPD.format(
        port=port,
        folder=software.subfolder("lighttpd"),
        users=software.write("lighttpd.users", users),
        required=",\n    ".join(rules),
        witness=software.port("witness", "ws"),
    )
    path = software.write("lighttpd.conf", config)
    process = software.run("lighttpd", [program("lighttpd"), "-D", "-f", path])
    process.wait_for("server started")
    return {"ws": port}


APACHE = """
ServerRoot {folder}
ServerName localhost
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog /dev/stderr
LogLevel notice
{modules}
Listen 127.0.0.1:{ws}
Listen 127.0.0.1:{wss}
Listen 127.0.0.1:{tls12}
Listen 127.0.0.1:{tls13}
<VirtualHost 127.0.0.1:{wss}>
    SSLEngine on
    SSLCertificateFile {certificate}
</VirtualHost>
<VirtualHost 127.0.0.1:{tls12}>
    SSLEngine on
    SSLProtocol TLSv1.2
    SSLCertificateFile {certificate}
    SSLCACertificateFile {authority}
</VirtualHost>
<VirtualHost 127.0.0.1:{tls13}>
    SSLEngine on
    SSLProtocol TLSv1.3
    SSLCertificateFile {certificate}
    SSLCACertificateFile {authority}
</VirtualHost>
<Location /certificate/>
    SSLVerifyClient require
    RequestHeader set X-Client "%{{SSL_CLIENT_S_DN}}s"
</Location>
<Location /md5/>
    AuthType Digest
    AuthName {realm}
    AuthDigestProvider file
    AuthUserFile {users}
    Require valid-user
</Location>
<Location /basic/>
    AuthType Basic
    AuthName {realm}
    AuthBasicProvider file
    AuthUserFile {passwords}
    Require valid-user
</Location>
ProxyPass / http://127.0.0.1:{witness}/ upgrade=websocket
ProxyPreserveHost on
"""
APACHE_MODULES = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic",
    "auth_digest", "headers", "proxy", "proxy_http", "proxy_wstunnel", "socache_shmcb", "ssl",
)  # fmt: skip


def apache(software):
    """Authentication by the first part of the path: Digest (MD5), Basic, a client certificate.

    For that it is asked when the request has been read: by renegotiation, or by TLS 1.3 afterwards.
    """
    ports = free_ports("ws", "wss", "tls12", "tls13")
    modules = "\n".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
        for name in APACHE_MODULES
    )
    config = APACHE.format(
        folder=software.subfolder("apache"),
        modules=modules + ("\nUser nobody\nGroup nogroup" if os.getuid() == 0 else ""),
        certificate=CERTS / "server.pem",
        authority=CERTS / "ca.pem",
        realm=REALM,
        users=software.write("apache.digest", digest_users("md5", USER)),
        passwords=software.write("apache.basic", f"{USER}:{CRYPTED}\n"),
        witness=software.port("witness", "ws"),
        **ports,
    )
    path = software.write("apache.conf", config)
    process = software.run("apache", [program("apache2"), "-D", "FOREGROUND", "-f", path])
    process.wait_for("resuming normal operations")
    return ports


def proxy_py(software):
    """An HTTP proxy in Python, proxy.py."""
    port = free_port()
    command = [sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(port)]
    process = software.run("proxy.py", [*command, "--num-workers", "1", "--num-acceptors", "1"])
    accepts(process, port)
    return {"plain": port}


def pyopenssl(software):
    """A server that wants a client certificate and has no session id context: it can't resume."""
    server = HERE / "servers" / "pyopenssl_server.py"
    command = [sys.executable, server, CERTS / "server.pem", CERTS / "ca.pem"]
    process = software.run("pyopenssl", command)
    found = {version: process.wait_for(rf"{version}: (\d+)") for version in TLS_VERSIONS}
    return {version: int(match.group(1)) for version, match in found.items()}


STARTERS = {
    "witness": witness,
    "squid": squid,
    "tinyproxy": tinyproxy,
    "dante": dante,
    "microsocks": microsocks,
    "openssh": openssh,
    "stunnel": stunnel,
    "haproxy": haproxy,
    "nginx": nginx,
    "lighttpd": lighttpd,
    "apache": apache,
    "proxy.py": proxy_py,
    "pyopenssl": pyopenssl,
}


_software = pytest.StashKey()


@pytest.fixture(scope="session")
def software(request):
    with contextlib.ExitStack() as stack:
        software = Software(stack)
        request.config.stash[_software] = software
        yield software


@pytest.fixture(scope="session")
def trust():
    """A context for the servers and the proxies here."""
    return trusting()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Show what the programs have said lately if a test fails."""
    outcome = yield
    software = item.config.stash.get(_software, None)
    if software is not None and outcome.get_result().failed:
        for name, process in software.processes.items():
            outcome.get_result().sections.append((f"output of {name}", process.output(15)))
