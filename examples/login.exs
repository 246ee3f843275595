# Answers what a program asks on a terminal:
#
#     mix run examples/login.exs joe secret
#
# In the place of `ssh` or `sudo` stands a little shell script here, which asks in the same way: the password is read
# without echo, and from the terminal, not from stdin.
[name, password] = System.argv()

program = """
printf 'login: '; read -r name
stty -echo; printf 'password: '; read -r password < /dev/tty; stty echo; echo
if [ "$password" = secret ]; then echo "Welcome, $name."; else echo 'Login incorrect'; exit 1; fi
"""

{:ok, server} = NetRunner.Process.start("sh", ["-c", program], pty: true)

{:ok, _} = NetRunner.expect(server, "login: ", timeout: 10_000)
:ok = NetRunner.Process.write(server, [name, "\n"])
{:ok, _} = NetRunner.expect(server, "password: ", timeout: 10_000)
:ok = NetRunner.Process.write(server, [password, "\n"])

case NetRunner.expect(server, [~r/Welcome, (.*)\.\r\n/, "incorrect"], timeout: 10_000) do
  {:ok, %{index: 0, captures: [who]}} -> IO.puts("logged in as #{who}")
  {:ok, %{index: 1}} -> IO.puts("refused")
  end_or_timeout -> IO.puts("no answer: #{inspect(end_or_timeout)}")
end

{:ok, status} = NetRunner.Process.await_exit(server)
IO.puts("exit status #{status}")
:ok = NetRunner.Process.stop(server)
