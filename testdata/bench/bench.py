#!/usr/bin/env python3
"""Times lapstrake beside buildah and docker (BuildKit and classic) on this machine, in one run.

What is measured (medians; the builders take turns within each round):

  rebuild     a build of 12 instructions and 20 context files, nothing changed
  run         30 RUN steps of `true` on busybox, without cache; a step's share
  step        30 RUN steps of a static program that does nothing, without cache; a step's share of the build. Beside it, a run's share
              of 30: clone3, overlay, /proc, pivot_root and exec in bare.c, and `runc run`, both on a folder with that program
  copy        COPY of 50,000 files, 300 MB, into an empty store; beside `cp -a` and sha256sum of the same files
  change      the same again after one file changed
  archive     COPY of a half-compressible file of 512 MB, to an OCI archive with gzip; beside gzip alone.
              docker of this age writes no OCI archive: it pushes to a registry on loopback, which gzips too
  contexts    lapstrake alone: a rebuild with nothing changed, of contexts of 100, 10,000 and 100,000 files; beside `du -s`,
              which looks at each file once
  records     lapstrake alone: the first rebuild again, on a store with 100 and with 100,000 more records
  together    lapstrake alone: 16 equal builds at once on an empty store; processor time of all of them, beside that of one
  travel      lapstrake alone: a rebuild of 50 steps with nothing changed, alone and with its cache exported to a registry that has
              it already; and the same build on an empty store that finds its keys there
  prune       lapstrake alone: a prune of a store with 10,000 records
  memory      the peak of each of these: the largest process (lapstrake, buildah), or the daemons and the client (docker)

Steps have no network (but for buildah's chroot isolation, which cannot do without), the base image comes from a registry on loopback. A builder that cannot run is left out, and why is said.

usage: bench.py [--rounds N] [--only NAME,...] [--builders NAME,...] [--work FOLDER]
"""

import argparse, json, os, random, shutil, signal, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BIN = os.path.join(TOP, "testdata/bin")
WORK = os.path.join(TOP, "target/bench")  # or what --work says
FILES, FOLDERS, FILE_SIZE = 50_000, 250, 6_291
ARCHIVE_SIZE = 512 << 20


class CannotRun(Exception):
    pass


# ---------------------------------------------------------------- measuring

def run(argv, env=None, cwd=None):
    """Runs a command to its end; returns (seconds, peak bytes of its largest process). Output is shown only on failure."""
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        pid = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env={**os.environ, **(env or {})}).pid
        _, status, usage = os.wait4(pid, 0)
        seconds = time.monotonic() - start
        if status != 0:
            log.seek(0)
            tail = log.read()[-2000:].decode(errors="replace")
            raise CannotRun("%s ended with %d:\n%s" % (" ".join(argv), os.waitstatus_to_exitcode(status), tail))
    return seconds, usage.ru_maxrss * 1024


def output_of(argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


class Result:
    """Seconds and peak memory of every round of one measure with one builder; and the size of what came out."""

    def __init__(self):
        self.seconds, self.memory, self.size = [], [], None

    def add(self, measured):
        self.seconds.append(measured[0])
        self.memory.append(measured[1])

    def median(self):
        return statistics.median(self.seconds)


# ---------------------------------------------------------------- builders

class Store:
    """The folder of a builder. Old ones are removed at the end only: removing 50,000 files slows down what the disk does next."""

    def __init__(self, name):
        self.prefix, self.count = os.path.join(WORK, "store-" + name.replace(" ", "-")), 0
        self.remove()

    @property
    def path(self):
        return os.path.join(self.prefix, str(self.count))

    def renew(self):
        self.count += 1

    def remove(self):
        shutil.rmtree(self.prefix, ignore_errors=True)


class Lapstrake:
    name = "lapstrake"

    def __init__(self, registry):
        self.binary = os.path.abspath(os.environ.get("LAPSTRAKE") or os.path.join(TOP, "target/release/lapstrake"))
        if not os.path.exists(self.binary):
            raise CannotRun("%s is missing: make build" % self.binary)
        self.store = Store(self.name)
        self.version = output_of([self.binary, "--version"])

    def forget(self):
        self.store.renew()

    def build(self, context, *flags):
        return run([self.binary, "--root", self.store.path, "build", "--progress=plain", "--network=none", *flags, context])

    def keep(self, context, *flags):
        return self.build(context, "-t", "bench", *flags)

    def archive(self, context):
        out = os.path.join(WORK, "lapstrake.tar")
        measured = self.build(context, "--output", "type=oci,compression=gzip,dest=" + out)
        return measured, os.path.getsize(out)

    def close(self):
        self.store.remove()


class Buildah:
    name = "buildah"

    def __init__(self, registry):
        if not shutil.which("buildah"):
            raise CannotRun("buildah is not installed: apt-get install buildah")
        self.store = Store(self.name)
        self.isolation = self.find_isolation()
        self.version = "%s, %s" % (output_of(["buildah", "--version"]), " ".join(self.isolation))

    def base(self):
        driver = "overlay" if os.getuid() == 0 else "vfs"
        return ["buildah", "--root", self.store.path + "/root", "--runroot", self.store.path + "/run",
                "--storage-driver", driver]

    def find_isolation(self):
        """An OCI runtime: the first that works on this machine."""
        reason = CannotRun("no OCI runtime: apt-get install crun")
        for runtime in filter(shutil.which, ("crun", "runc")):
            self.isolation = ["--isolation=oci", "--runtime=" + runtime, "--network=none"]
            try:
                self.build(probe_context(), "--no-cache")
                return self.isolation
            except CannotRun as error:
                reason = error
        raise reason

    def forget(self):
        self.store.renew()

    def build(self, context, *flags):
        return run([*self.base(), "build", "--layers", *self.isolation, "--tls-verify=false", "-t", "bench", *flags, context])

    keep = build

    def archive(self, context):
        out = os.path.join(WORK, "buildah.tar")
        built = self.build(context)
        pushed = run([*self.base(), "push", "bench", "oci-archive:" + out])
        size = os.path.getsize(out)
        os.remove(out)
        return (built[0] + pushed[0], max(built[1], pushed[1])), size

    def close(self):
        self.store.remove()


class BuildahChroot(Buildah):
    """Without namespaces but for mounts: quicker, and no isolation to speak of; it cannot take the network away."""
    name = "buildah chroot"

    def find_isolation(self):
        return ["--isolation=chroot", "--network=host"]


class Daemon:
    """One dockerd for both builders of docker."""
    folder, host, pids = None, None, []

    @classmethod
    def start(cls):
        if cls.host:
            return
        if not shutil.which("dockerd", path=os.environ["PATH"] + ":/usr/sbin"):
            raise CannotRun("dockerd is not installed: apt-get install docker.io")
        started = subprocess.run([BIN + "/dockerd", "start", cls.folder], capture_output=True, text=True)
        if started.returncode != 0:
            raise CannotRun(started.stderr.strip())
        cls.host = started.stdout.strip()
        with open(os.path.join(cls.host.removeprefix("unix://").removesuffix("/socket"), "pid")) as f:
            daemon = int(f.read())
        with open("/proc/%d/task/%d/children" % (daemon, daemon)) as f:
            cls.pids = [daemon, *children(daemon)]

    @classmethod
    def stop(cls):
        if cls.host:
            subprocess.run([BIN + "/dockerd", "stop", cls.folder], check=True)
            cls.host = None

    @classmethod
    def reset_peak(cls):
        for pid in cls.pids:
            with open("/proc/%d/clear_refs" % pid, "w") as f:
                f.write("5")

    @classmethod
    def peak(cls):
        total = 0
        for pid in cls.pids:
            with open("/proc/%d/status" % pid) as f:
                total += next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))
        return total


def children(parent):
    """The processes below `parent`."""
    found = []
    for entry in os.listdir("/proc/%d/task" % parent):
        with open("/proc/%d/task/%s/children" % (parent, entry)) as f:
            for child in map(int, f.read().split()):
                found += [child, *children(child)]
    return found


class Docker:
    def __init__(self, registry):
        Daemon.start()
        self.registry = registry
        self.client = self.find_client()
        self.version = "docker %s, %s" % (output_of([self.client, "-H", Daemon.host, "version", "-f", "{{.Server.Version}}"]), self.name)

    def find_client(self):
        """The first docker of the PATH that builds with this builder; a client without buildx may not."""
        reason = CannotRun("docker is not installed: apt-get install docker.io")
        for folder in os.environ["PATH"].split(":") + ["/usr/bin"]:
            self.client = os.path.join(folder, "docker")
            if os.access(self.client, os.X_OK):
                try:
                    self.build(probe_context())
                    return self.client
                except CannotRun as error:
                    reason = error
        raise reason

    def docker(self, *argv):
        Daemon.reset_peak()
        seconds, memory = run([self.client, "-H", Daemon.host, *argv], env={"DOCKER_BUILDKIT": self.switch})
        return seconds, memory + Daemon.peak()

    def forget(self):
        self.docker("system", "prune", "-af")
        if self.switch == "1":
            self.docker("builder", "prune", "-af")

    def build(self, context, *flags):
        return self.docker("build", "--network=none", "-t", "bench", *flags, context)

    keep = build

    def archive(self, context):
        name = "%s/bench/%s" % (self.registry, self.switch)
        built = self.build(context, "-t", name)
        pushed = self.docker("push", name)
        request = urllib.request.Request("http://%s/v2/bench/%s/manifests/latest" % (self.registry, self.switch), headers={
            "Accept": "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"})
        with urllib.request.urlopen(request) as answer:
            size = sum(layer["size"] for layer in json.load(answer)["layers"])
        return (built[0] + pushed[0], max(built[1], pushed[1])), size

    def close(self):
        pass


class DockerBuildKit(Docker):
    name, switch = "docker BuildKit", "1"


class DockerClassic(Docker):
    name, switch = "docker classic", "0"


BUILDERS = {"lapstrake": Lapstrake, "buildah": Buildah, "chroot": BuildahChroot, "buildkit": DockerBuildKit, "classic": DockerClassic}


# ---------------------------------------------------------------- contexts

def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb" if isinstance(content, bytes) else "w") as f:
        f.write(content)


def probe_context():
    """The smallest build that needs a working builder."""
    folder = os.path.join(WORK, "probe")
    if not os.path.exists(folder):
        os.makedirs(folder)
        shutil.copy("/usr/bin/busybox", folder)
        write(folder + "/Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nRUN true\n")
    return folder


def rebuild_context(registry):
    """12 instructions and 20 files."""
    folder = os.path.join(WORK, "rebuild")
    for n in range(20):
        write("%s/%s/file%d.txt" % (folder, "ab"[n % 2], n), "file %d\n" % n * 100)
    write(folder + "/Dockerfile", "\n".join([
        "FROM %s/library/busybox:latest" % registry, "ENV APP=/app", "WORKDIR /app", "COPY a/file0.txt /etc/app.conf",
        "RUN mkdir data", "COPY a a", "RUN cat a/* > data/a", "COPY b b", "RUN cat b/* > data/b", "RUN sha256sum data/* > sums",
        "LABEL kind=bench", 'CMD ["cat", "sums"]']) + "\n")
    return folder


def run_context(registry):
    folder = os.path.join(WORK, "run")
    write(folder + "/Dockerfile", "FROM %s/library/busybox:latest\n" % registry + "".join("RUN true # %d\n" % n for n in range(30)))
    return folder


def copy_context():
    folder = os.path.join(WORK, "copy")
    if not os.path.exists(folder + "/Dockerfile"):
        noise = random.Random(1)
        for n in range(FILES):
            write("%s/tree/%03d/%05d" % (folder, n % FOLDERS, n), noise.randbytes(FILE_SIZE))
        write(folder + "/Dockerfile", "FROM scratch\nCOPY tree /tree\n")
    return folder


def archive_context():
    folder = os.path.join(WORK, "archive")
    if not os.path.exists(folder + "/Dockerfile"):
        noise = random.Random(2)
        filler = b"A lapstrake hull is made of overlapping strakes. " * 42
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/file", "wb") as f:
            for _ in range(ARCHIVE_SIZE // 4096):
                f.write(noise.randbytes(2048) + filler[:2048])
        write(folder + "/Dockerfile", "FROM scratch\nCOPY file /file\n")
    return folder


# ---------------------------------------------------------------- measures

def in_rounds(builders, rounds, measure, beside=None):
    """Lets the builders, and the commands {name: function} beside them, take turns; returns {name: Result}."""
    beside = beside or {}
    results = {name: Result() for name in [*(b.name for b in builders), *beside]}
    for _ in range(rounds):
        for builder in builders:
            measure(builder, results[builder.name])
        for name, command in beside.items():
            results[name].add(command())
    return results


def rebuild(builders, registry, rounds):
    context = rebuild_context(registry)
    for builder in builders:
        builder.keep(context)
    return {"rebuild, nothing changed": in_rounds(builders, 5 * rounds, lambda b, r: r.add(b.keep(context)))}


def run_steps(builders, registry, rounds):
    context = run_context(registry)

    def measure(builder, result):
        seconds, memory = builder.keep(context, "--no-cache")
        result.add((seconds / 30, memory))
    for builder in builders:
        builder.keep(context)
    return {"RUN true, a step": in_rounds(builders, rounds, measure)}


def step(builders, registry, rounds):
    count, folder = 30, os.path.join(WORK, "step")
    write(folder + "/true.c", "int main(void) { return 0; }\n")
    run(["cc", "-O2", "-static", "-o", folder + "/true", folder + "/true.c"])
    write(folder + "/Dockerfile", "FROM %s/library/busybox:latest\nCOPY true /\n" % registry + "".join(
        'RUN ["/true", "%d"]\n' % n for n in range(count)))
    bare, root, layers = os.path.join(WORK, "bare"), os.path.join(WORK, "bundle/rootfs"), Store("bare")
    run(["cc", "-O2", "-o", bare, os.path.join(HERE, "bare.c")])
    os.makedirs(root + "/proc", exist_ok=True)
    shutil.copy(folder + "/true", root)

    def share(measured):
        return measured[0] / count, measured[1]

    def namespaces():
        layers.renew()
        os.makedirs(layers.path)
        return share(run([bare, str(count), root, layers.path]))

    def runc():
        script = 'n=0; while [ $n -lt %d ]; do runc --root state run "bench-$$-$n" || exit 1; n=$((n + 1)); done'
        return share(run(["sh", "-c", script % count], cwd=os.path.dirname(root)))

    beside = {}
    for name, command in {"clone3 to exec": namespaces, "runc run": runc}.items():
        try:
            if command is runc:
                make_bundle(os.path.dirname(root))
            command()
            beside[name] = command
        except CannotRun as error:
            print("- %s is LEFT OUT: %s" % (name, error))
    for builder in builders:
        builder.keep(folder)
    results = in_rounds(builders, rounds, lambda b, r: r.add(share(b.keep(folder, "--no-cache"))), beside)
    layers.remove()
    return {"RUN of a program that does nothing, a step": results}


def make_bundle(folder):
    """What `runc run` takes: its own default configuration, for a program without a terminal."""
    if not shutil.which("runc"):
        raise CannotRun("runc is not installed: apt-get install runc")
    path = os.path.join(folder, "config.json")
    if os.path.exists(path):
        os.remove(path)
    run(["runc", "spec"], cwd=folder)
    with open(path) as f:
        config = json.load(f)
    config["process"].update(terminal=False, args=["/true"])
    write(path, json.dumps(config))


def copy(builders, _registry, rounds):
    context = copy_context()
    changes = {b.name: Result() for b in builders}
    victim = context + "/tree/007/00007"

    def measure(builder, result):
        builder.forget()
        settle()
        result.add(builder.keep(context))
        write(victim, random.randbytes(FILE_SIZE))
        settle()
        changes[builder.name].add(builder.keep(context))
    copied = Store("copied")

    def cp():
        copied.renew()
        os.makedirs(copied.path)
        settle()
        return run(["cp", "-a", context + "/tree", copied.path])

    def sha256sum():
        return run(["sh", "-c", "find tree -type f -print0 | xargs -0 sha256sum > /dev/null"], cwd=context)

    copies = in_rounds(builders, rounds, measure, {"cp -a": cp, "sha256sum": sha256sum})
    copied.remove()
    return {"COPY of 50,000 files, 300 MB": copies, "the same, one file changed": changes}


def archive(builders, _registry, rounds):
    context = archive_context()

    def measure(builder, result):
        # Docker never gzips a layer again that it pushed once, to whatever name.
        with open(context + "/file", "r+b") as f:
            f.write(random.randbytes(16))
        builder.forget()
        settle()
        measured, result.size = builder.archive(context)
        result.add(measured)
    packed = os.path.join(WORK, "file.gz")
    results = in_rounds(builders, rounds, measure, {"gzip": lambda: run(["sh", "-c", 'gzip -c file > "$0"', packed], cwd=context)})
    results["gzip"].size = os.path.getsize(packed)
    os.remove(packed)
    return {"512 MB file to an archive, gzip": results}


def ours(builders):
    """lapstrake, for what only it is measured in; nothing where it is left out."""
    return [b for b in builders if isinstance(b, Lapstrake)]


def contexts(builders, _registry, rounds):
    measured = {}
    for count in (100, 10_000, 100_000):
        folder = os.path.join(WORK, "context-%d" % count)
        if not os.path.exists(folder + "/Dockerfile"):
            for n in range(count):
                write("%s/tree/%03d/%06d" % (folder, n % 250, n), "file %d\n" % n)
            write(folder + "/Dockerfile", "FROM scratch\nCOPY tree /tree\n")
        for builder in ours(builders):
            builder.keep(folder)
            time.sleep(3)  # files as young as the look at them are not remembered
            builder.keep(folder)
        stat = {"du -s": lambda: run(["du", "-s", folder + "/tree"])}
        title = "rebuild, context of %d files" % count
        measured[title] = in_rounds(ours(builders), 5 * rounds, lambda b, r: r.add(b.keep(folder)), stat)
    return measured


def add_records(builder, count):
    """Records as builds leave them, of steps that never were."""
    noise = random.Random(count)
    for _ in range(count):
        record = {"diff_id": "sha256:" + noise.randbytes(32).hex(), "content": noise.randbytes(32).hex(),
                  "created": "2020-01-01T00:00:00Z", "worked": 1577836800}
        write("%s/keys-v1/%s" % (builder.store.path, noise.randbytes(32).hex()), json.dumps(record))


def records(builders, registry, rounds):
    context, measured = rebuild_context(registry), {}
    for count in (100, 100_000):
        for builder in ours(builders):
            builder.forget()
            builder.keep(context)
            add_records(builder, count)
            settle()
            builder.keep(context)
        title = "rebuild, %d more records" % count
        measured[title] = in_rounds(ours(builders), 5 * rounds, lambda b, r: r.add(b.keep(context)))
    return measured


def prune(builders, registry, rounds):
    def measure(builder, result):
        builder.forget()
        builder.keep(rebuild_context(registry))
        add_records(builder, 10_000)
        settle()
        result.add(run([builder.binary, "--root", builder.store.path, "prune", "-af"]))
    return {"prune of 10,000 records": in_rounds(ours(builders), rounds, measure)}


def travel(builders, registry, rounds):
    folder = os.path.join(WORK, "travel")
    write(folder + "/Dockerfile", "FROM %s/library/busybox:latest\n" % registry + "".join("RUN echo %d > /%d\n" % (n, n) for n in range(50)))
    cache = "type=registry,ref=%s/bench/cache" % registry
    export = "--cache-to=%s,mode=max" % cache
    for builder in ours(builders):
        builder.build(folder, export)
    alone = in_rounds(ours(builders), 5 * rounds, lambda b, r: r.add(b.build(folder)))
    exported = in_rounds(ours(builders), 5 * rounds, lambda b, r: r.add(b.build(folder, export)))

    def elsewhere(builder, result):
        builder.forget()
        settle()
        result.add(builder.build(folder, "--cache-from=" + cache))
    imported = in_rounds(ours(builders), rounds, elsewhere)
    return {"rebuild of 50 steps, nothing changed": alone, "the same, and cache export of 50 layers": exported,
            "50 steps on an empty store, from the cache": imported}


def busy():
    """Processor seconds that this machine has spent on anything; what steps take is not told to those who started them."""
    with open("/proc/stat") as f:
        user, nice, system = map(int, f.readline().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def processor_time(builder, context, count):
    """Builds so often at once; (processor seconds of the machine, peak bytes of the largest process)."""
    argv = [builder.binary, "--root", builder.store.path, "build", "--progress=plain", "--network=none", context]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    memory, before = 0, busy()
    started = [subprocess.Popen(argv, **quiet) for _ in range(count)]
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise CannotRun("%s ended with %d" % (" ".join(argv), os.waitstatus_to_exitcode(status)))
        memory = max(memory, usage.ru_maxrss * 1024)
    return busy() - before, memory


def together(builders, registry, rounds):
    folder = os.path.join(WORK, "together")
    for n in range(2000):
        write("%s/tree/%d" % (folder, n), "file %d\n" % n)
    work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo %d > /%d"
    write(folder + "/Dockerfile", "FROM %s/library/busybox:latest\nCOPY tree /tree\n" % registry + "".join(
        "RUN %s\n" % (work % (n, n)) for n in range(10)))
    results = {}
    for count in (1, 16):
        def measure(builder, result, count=count):
            builder.forget()
            settle()
            result.add(processor_time(builder, folder, count))
        results["processor time of %d equal builds at once" % count] = in_rounds(ours(builders), rounds, measure)
    return results


def settle():
    """Earlier writes shall not be paid for by the next measure."""
    os.sync()


MEASURES = {"rebuild": rebuild, "run": run_steps, "step": step, "copy": copy, "archive": archive, "contexts": contexts, "records": records,
            "together": together, "travel": travel, "prune": prune}


# ---------------------------------------------------------------- report

def seconds(value):
    return "%.0f ms" % (value * 1000) if value < 1 else "%.2f s" % value


def megabytes(value):
    return "%.0f MB" % (value / 1e6)


def report(title, measured, builders):
    """A table of one measure: builders first, then what ran beside them; in brackets how many times the first one's."""
    base = measured.get(builders[0].name)

    def cell(result, value, show):
        times = " (%.1fx)" % (value(result) / value(base)) if base and result is not base else ""
        return show(value(result)) + times
    print("| %s | median time | peak memory | size |\n| --- | ---: | ---: | ---: |" % title)
    for name, result in measured.items():
        size = megabytes(result.size) if result.size else ""
        time, memory = cell(result, Result.median, seconds), cell(result, lambda r: max(r.memory), megabytes)
        print("| %s | %s | %s | %s |" % (name, time, memory, size))
    print(flush=True)


def machine():
    with open("/proc/cpuinfo") as f:
        models = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return "%d x %s, Linux %s" % (os.cpu_count(), models[0] if models else os.uname().machine, os.uname().release)


def start(names, registry):
    builders = []
    for name in names:
        try:
            builders.append(BUILDERS[name](registry))
            print("- %s: %s" % (builders[-1].name, builders[-1].version))
        except CannotRun as error:
            print("- %s is LEFT OUT: %s" % (name, error))
    return builders


def main():
    global WORK
    parser = argparse.ArgumentParser(description="Times lapstrake beside buildah and docker.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; rebuilds five times as often")
    parser.add_argument("--work", default=WORK, help="folder for contexts and stores (target/bench)")
    parser.add_argument("--only", help="some measures alone, of " + ", ".join(MEASURES))
    parser.add_argument("--builders", default=",".join(BUILDERS), help="which builders, of " + ", ".join(BUILDERS))
    options = parser.parse_args()
    rounds = options.rounds
    WORK = os.path.abspath(options.work)
    Daemon.folder = os.path.join(WORK, "docker")
    os.makedirs(WORK, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    registry = output_of([BIN + "/make-base"])
    builders = []
    try:
        print("%s; median of %d rounds, rebuild of %d\n" % (machine(), rounds, 5 * rounds))
        builders = start(options.builders.split(","), registry)
        print(flush=True)
        for name in options.only.split(",") if options.only else MEASURES:
            for title, measured in MEASURES[name](builders, registry, rounds).items():
                report(title, measured, builders)
    finally:
        for builder in builders:
            builder.close()
        Daemon.stop()
        subprocess.run([BIN + "/registry", "stop", os.path.join(TOP, "target/registry")], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
