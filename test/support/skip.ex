defmodule NetRunner.Test.Skip do
  @moduledoc false
  # Why a test cannot be run on this machine or by this user, nil where it can: for `@tag skip:`, when a test file is
  # loaded. NetRunner.Test.SkipReport says it aloud.

  @doc "Unless we are root."
  def unless_root(why), do: if(not root?(), do: why)

  @doc "If we are root."
  def if_root(why), do: if(root?(), do: why)

  @doc "Unless another user, whom only root can become, can read what has been built."
  def unless_other_user do
    shepherd = Application.app_dir(:net_runner, "priv/shepherd")

    unless_root("only root can become another user") ||
      unless_command(
        "cd / && setpriv --reuid 64322 --clear-groups test -r '#{shepherd}'",
        "no other user can read what has been built"
      )
  end

  @doc "Unless there are mount namespaces."
  def unless_mounts do
    unless_root("only root can mount a file system") ||
      unless_command("unshare --mount true", "no mount namespaces")
  end

  @doc "Unless this shell command succeeds."
  def unless_command(command, why) do
    case System.cmd("sh", ["-c", command], stderr_to_stdout: true) do
      {_output, 0} -> nil
      {output, _status} -> String.trim("#{why}. #{output}")
    end
  end

  defp root?, do: System.cmd("id", ["-u"]) == {"0\n", 0}
end
