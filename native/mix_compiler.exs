defmodule Mix.Tasks.Compile.NetRunnerNative do
  @moduledoc false
  # Builds the crates of native/ with `cargo --release` and puts what they make where the application
  # finds it:
  #
  #     <build>/lib/net_runner/priv/net_runner_nif.so   the NIF (`.so` on macOS too: the VM wants that name)
  #     <build>/lib/net_runner/priv/shepherd            the shepherd and fork server
  #     <build>/lib/net_runner/fixture                  the test child, in NetRunner's own test environment only
  #
  # Nothing is written below the sources, because they may be read-only (a dependency in a store, a mounted
  # checkout). That is why the sources must not have a directory `priv`: Mix would make the priv of the build
  # a symbolic link to it. Mix makes no link to a directory that is not there, and a release copies the priv
  # of the build.
  #
  # Cargo's own files go below the build too (`<build>/lib/net_runner/cargo`), so that they belong to the
  # application that is being built; in NetRunner's own checkout they go to `target/`, which all Mix
  # environments, clippy and `cargo test` then share. CARGO_TARGET_DIR comes before both. CARGO, CC,
  # CARGO_BUILD_TARGET and everything else that cargo and rustc read from the environment are left to them;
  # the paths of what was built come from cargo's messages, so it does not matter which target it was for.
  #
  # The shepherd is linked statically where that can be had (glibc, or musl): one of it is forked per command,
  # and without a dynamic linker's mappings and relocated pages a fork and an exit of it cost less
  # (docs/decisions.md has the numbers). A library must be linked dynamically, so the two are built by two
  # calls of cargo.
  #
  # Cargo knows what is to be rebuilt, but asking it takes 100 ms, and Mix asks at every start of a host
  # application. So it is asked only when one of the inputs (sources, manifests, environment) or of the
  # outputs is not as it was left.

  use Mix.Task.Compiler

  @workspace Path.dirname(__DIR__)
  @compiler_name "net_runner_native"
  @manifest "compile.net_runner_native"
  @manifest_version 1

  @artefacts %{
    "nif" => %{target: "net_runner_nif", to: "priv/net_runner_nif.so"},
    "shepherd" => %{target: "shepherd", to: "priv/shepherd"},
    "fixture" => %{target: "fixture", to: "fixture"}
  }

  @static ["--", "-C", "target-feature=+crt-static", "-C", "relocation-model=static"]

  @impl true
  def run(argv) do
    {options, _rest, _invalid} = OptionParser.parse(argv, switches: [force: :boolean])
    # Before the build: what changes while cargo runs is then seen as changed the next time.
    inputs = inputs()

    if options[:force] != true and manifest() == {@manifest_version, inputs, outputs()} do
      {:noop, []}
    else
      build(inputs)
    end
  end

  @impl true
  def manifests, do: [manifest_path()]

  @impl true
  def clean do
    File.rm(manifest_path())
    for {_package, artefact} <- @artefacts, do: File.rm(output_path(artefact))
    :ok
  end

  # -- What a build depends on, and what it leaves ----------------------------------------------------

  defp manifest_path, do: Path.join(Mix.Project.manifest_path(), @manifest)

  defp manifest do
    :erlang.binary_to_term(File.read!(manifest_path()))
  rescue
    # Not there, or cut short: no manifest.
    _ in [File.Error, ArgumentError] -> nil
  end

  defp write_manifest(inputs) do
    File.mkdir_p!(Path.dirname(manifest_path()))
    File.write!(manifest_path(), :erlang.term_to_binary({@manifest_version, inputs, outputs()}))
  end

  defp inputs do
    files =
      ["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "rust-toolchain.toml", "native/**/*"]
      |> Enum.flat_map(&Path.wildcard(Path.join(@workspace, &1), match_dot: true))
      |> Enum.sort()
      |> Enum.map(&{&1, content_digest(&1)})

    {packages(), files, environment()}
  end

  # Not the time of modification, which has seconds only. Directories have no content.
  defp content_digest(path) do
    with {:ok, content} <- File.read(path), do: :erlang.md5(content)
  end

  defp outputs do
    for package <- packages(), path = output_path(@artefacts[package]) do
      with {:ok, stat} <- File.stat(path, time: :posix), do: {path, stat.size, stat.mtime}
    end
  end

  # What cargo, rustc, the linker and cross-compiling wrappers around them go by.
  defp environment do
    System.get_env()
    |> Enum.filter(fn {name, _value} ->
      name in ~w(CC CXX AR LD CFLAGS LDFLAGS MIX_TARGET TARGET_CC SDKROOT MACOSX_DEPLOYMENT_TARGET) or
        (String.starts_with?(name, ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"]) and
           not String.starts_with?(name, "CARGO_TERM_"))
    end)
    |> Enum.sort()
  end

  defp packages do
    if own_checkout?() and Mix.env() == :test, do: ~w(nif shepherd fixture), else: ~w(nif shepherd)
  end

  # Is NetRunner itself being worked on? As a dependency it is built in the build directory of its host.
  defp own_checkout?, do: String.starts_with?(Mix.Project.build_path(), @workspace <> "/")

  defp output_path(artefact), do: Path.join(Mix.Project.app_path(), artefact.to)

  # -- Building ---------------------------------------------------------------------------------------

  defp build(inputs) do
    with {:ok, cargo} <- find_cargo(),
         {:ok, messages, warnings} <- cargo_build(cargo),
         :ok <- install(messages) do
      write_manifest(inputs)
      {:ok, warnings}
    else
      {:error, diagnostics} when is_list(diagnostics) ->
        {:error, diagnostics}

      {:error, text} ->
        Mix.shell().error(text)
        {:error, [diagnostic(:error, text)]}
    end
  end

  defp find_cargo do
    wanted = System.get_env("CARGO", "cargo")
    # rustup installs below the home directory, which the PATH of a non-login shell may lack.
    rustup = if wanted == "cargo", do: System.find_executable(Path.expand("~/.cargo/bin/cargo"))

    case System.find_executable(wanted) || rustup do
      nil ->
        {:error,
         "NetRunner is built with Rust, and #{inspect(wanted)} was not found. Install Rust #{rust_version()} " <>
           "or later, with cargo (rustup, or your system's packages), or point the environment " <>
           "variable CARGO to it."}

      cargo ->
        {:ok, cargo}
    end
  end

  defp rust_version do
    [_, version] = Regex.run(~r/^rust-version = "(.*)"$/m, File.read!(Path.join(@workspace, "Cargo.toml")))
    version
  end

  # The packages with their kind of linking; a static one that cannot be linked is built like the others.
  defp cargo_build(cargo) do
    with {:ok, messages, diagnostics} <- cargo_call(cargo, ["build"], packages() -- ["shepherd"], []),
         {:ok, more_messages, more_diagnostics} <- build_shepherd(cargo) do
      {:ok, messages ++ more_messages, diagnostics ++ more_diagnostics}
    end
  end

  defp build_shepherd(cargo) do
    with true <- static_shepherd?(),
         {:error, _cannot_be_linked} <- cargo_call(cargo, ["rustc"], ["shepherd"], @static) do
      Mix.shell().info("The shepherd cannot be linked statically here; it is linked dynamically.")
      cargo_call(cargo, ["build"], ["shepherd"], [])
    else
      false -> cargo_call(cargo, ["build"], ["shepherd"], [])
      {:ok, messages, diagnostics} -> {:ok, messages, diagnostics}
    end
  end

  # macOS has no static libc.
  defp static_shepherd? do
    case System.get_env("CARGO_BUILD_TARGET") do
      nil -> match?({:unix, :linux}, :os.type())
      target -> target =~ "-linux-"
    end
  end

  defp cargo_call(cargo, command, packages, rustc_arguments) do
    format = if IO.ANSI.enabled?(), do: "json-diagnostic-rendered-ansi", else: "json"

    arguments =
      command ++
        ["--release", "--locked", "--message-format=#{format}"] ++
        target_dir() ++ Enum.flat_map(packages, &["--package", &1]) ++ rustc_arguments

    # Standard error, where cargo tells of its progress and of its own errors, stays the terminal's.
    {output, status} = System.cmd(cargo, arguments, cd: @workspace)
    messages = output |> String.split("\n") |> Enum.flat_map(&decode/1)
    diagnostics = Enum.flat_map(messages, &compiler_diagnostic/1)

    cond do
      status == 0 -> {:ok, messages, diagnostics}
      Enum.any?(diagnostics, &(&1.severity == :error)) -> {:error, diagnostics}
      true -> {:error, cargo_failed(cargo, arguments, status)}
    end
  rescue
    error in ErlangError -> {:error, "cannot execute #{cargo}: #{Exception.message(error)}"}
  end

  defp cargo_failed(cargo, arguments, status) do
    "`#{Enum.join([cargo | arguments], " ")}` in #{@workspace} failed with status #{status}; its reason is printed above"
  end

  defp target_dir do
    cond do
      System.get_env("CARGO_TARGET_DIR") || System.get_env("CARGO_BUILD_TARGET_DIR") -> []
      own_checkout?() -> ["--target-dir", Path.join(@workspace, "target")]
      true -> ["--target-dir", Path.join(Mix.Project.app_path(), "cargo")]
    end
  end

  # -- Cargo's messages (doc.rust-lang.org/cargo/reference/external-tools.html) --------------------------

  # A build script may print what it likes beside cargo's messages.
  defp decode("{" <> _ = line) do
    {message, :ok, _rest} = :json.decode(line, :ok, %{null: nil})
    [message]
  rescue
    _ in ErlangError -> []
  end

  defp decode(_line), do: []

  defp compiler_diagnostic(%{"reason" => "compiler-message", "message" => message} = entry) do
    IO.write(:stderr, message["rendered"] || "")

    case {message["level"], Enum.find(message["spans"], & &1["is_primary"])} do
      # "aborting due to 2 previous errors", "2 warnings emitted": sums of what was said.
      {level, nil} when level in ["failure-note", "note", "help"] ->
        []

      {level, nil} ->
        [%{diagnostic(severity(level), message["message"]) | file: entry["manifest_path"]}]

      {level, span} ->
        file = Path.expand(span["file_name"], @workspace)
        position = {span["line_start"], span["column_start"]}
        [%{diagnostic(severity(level), message["message"]) | file: file, position: position}]
    end
  end

  defp compiler_diagnostic(_message), do: []

  # "error: internal compiler error" is a level of its own.
  defp severity("error" <> _), do: :error
  defp severity("warning"), do: :warning
  defp severity(_level), do: :information

  defp diagnostic(severity, message) do
    %Mix.Task.Compiler.Diagnostic{
      compiler_name: @compiler_name,
      file: nil,
      position: 0,
      severity: severity,
      message: message
    }
  end

  # -- Installing -------------------------------------------------------------------------------------

  defp install(messages) do
    Enum.reduce_while(packages(), :ok, fn package, :ok ->
      artefact = @artefacts[package]

      case built_file(messages, artefact.target) do
        nil -> {:halt, {:error, "cargo has built the package #{package}, but no #{artefact.target}"}}
        file -> put_in_place(file, output_path(artefact)) |> continue(output_path(artefact))
      end
    end)
  end

  defp continue(:ok, _path), do: {:cont, :ok}

  defp continue({:error, posix}, path),
    do: {:halt, {:error, "cannot write #{path}: #{:file.format_error(posix)}"}}

  defp built_file(messages, target) do
    Enum.find_value(messages, fn
      %{"reason" => "compiler-artifact", "target" => %{"name" => ^target}} = artifact ->
        artifact["executable"] ||
          Enum.find(artifact["filenames"], &(Path.extname(&1) in [".so", ".dylib"]))

      _ ->
        nil
    end)
  end

  # The old file may be running or be mapped by a VM, so it is never written to: the new one takes its name.
  defp put_in_place(from, to) do
    new = "#{to}.#{System.pid()}"

    with :ok <- make_directory(Path.dirname(to)),
         :ok <- File.cp(from, new),
         :ok <- File.rename(new, to) do
      :ok
    else
      error ->
        File.rm(new)
        error
    end
  end

  defp make_directory(path) do
    # A link that Mix made to a priv of the sources that is no longer there.
    with {:ok, _target} <- File.read_link(path), false <- File.dir?(path), do: File.rm(path)
    File.mkdir_p(path)
  end
end
