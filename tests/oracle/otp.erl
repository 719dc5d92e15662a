%% Runs scenarios with OTP's own `supervisor`. Each line of input is a scenario as an Erlang term, each line of output
%% its answer: the number of the scenario and, for each step, what was started and stopped, and what is left.
%%
%% A tree is a supervisor of supervisors: the root has the groups as its children, a group has the VMs. A VM is a
%% process that ends when it is told to. Marks of the answer:
%%
%%   +vm  started               !vm  the start failed
%%   -vm  asked to stop         xvm  killed without being asked
%%   *vm  has ended by itself while the VM of the next mark is being started
%%   ^g   the group has reached its intensity; ^tree  the root has
%%   ?vm  was to exit, and does not run
%%   =g:vm,vm  what runs at the end of the step; =g:down  the group has no supervisor; =tree:down  there is no root
-module(otp).
-behaviour(supervisor).
-export([main/0, init/1, start_vm/3, log/2]).

-record(memory, {
    marks = [],
    %% How often each VM was started.
    starts = #{},
    %% What happens at a start: {Vm, Number} => fails | {exits, Other, How}.
    plans = #{},
    pids = #{},
    %% The VMs that are killed without being asked, by their process.
    brutal = #{},
    %% The VMs that the operator has stopped, if they are to be held down.
    held = sets:new(),
    holds = false
}).

main() ->
    ok = logger:remove_handler(default),
    ok = logger:add_handler(?MODULE, ?MODULE, #{}),
    loop().

loop() ->
    case io:get_line("") of
        eof ->
            halt(0);
        Line ->
            {ok, Tokens, _} = erl_scan:string(Line),
            {ok, Scenario} = erl_parse:parse_term(Tokens),
            Runner = fun() -> answer(Scenario) end,
            {_, Monitor} = spawn_monitor(Runner),
            case lists:keymember(pass, 1, [Step || Step <- element(5, Scenario), is_tuple(Step)]) of
                %% It takes real time, and others run meanwhile.
                true -> ok;
                false -> receive {'DOWN', Monitor, process, _, _} -> ok end
            end,
            loop()
    end.

answer({Number, _, _, _, _} = Scenario) ->
    Answer =
        try run(Scenario)
        catch Class:Reason:Stack -> io_lib:format("error ~0p", [{Class, Reason, Stack}])
        end,
    io:put_chars([integer_to_list(Number), " ", Answer, "\n"]).

run({_, Flags, Tree, Groups, Steps}) ->
    process_flag(trap_exit, true),
    Holds = lists:member(stopped_stay_down, Flags),
    Vms = lists:append([GroupVms || {_, _, _, _, _, _, GroupVms} <- Groups]),
    Plans = maps:from_list([{{Vm, N}, Plan} || {Vm, _, _, _, VmPlans} <- Vms, {N, Plan} <- VmPlans]),
    Recorder = spawn_link(fun() -> recorder(#memory{plans = Plans, holds = Holds}) end),
    Started = supervisor:start_link(?MODULE, {tree, Recorder, Tree, Groups}),
    Names = [element(1, Group) || Group <- Groups],
    Answers =
        case Started of
            {ok, Root} ->
                Of = maps:from_list([{element(1, Vm), element(1, G)} || G <- Groups, Vm <- element(7, G)]),
                First = report(Root, Recorder, Names),
                [First | [begin step(Step, Root, Of, Recorder), report(Root, Recorder, Names) end || Step <- Steps]];
            {error, Reason} ->
                [io_lib:format("~s refused ~s", [marks(Recorder), why(Reason)])]
        end,
    Recorder ! stop,
    lists:join(" | ", Answers).

why({shutdown, {failed_to_start_child, _, {start_spec, {bad_combination, _}}}}) -> "bad_combination";
why({shutdown, {failed_to_start_child, _, {shutdown, {failed_to_start_child, Vm, _}}}}) -> atom_to_list(Vm);
why(Other) -> io_lib:format("~0p", [Other]).

%% ---- The tree -------------------------------------------------------------------------------------------------------

init({tree, Recorder, {Intensity, Period}, Groups}) ->
    remember(Recorder, tree),
    Child = fun({Name, _, _, _, _, Restart, _} = Group) ->
        #{id => Name, start => {supervisor, start_link, [?MODULE, {group, Recorder, Group}]},
          restart => Restart, shutdown => infinity, type => supervisor}
    end,
    {ok, {#{strategy => one_for_one, intensity => Intensity, period => Period}, lists:map(Child, Groups)}};
init({group, Recorder, {Name, Strategy, Intensity, Period, AutoShutdown, _, Vms}}) ->
    remember(Recorder, Name),
    Child = fun({Vm, Restart, Significant, Stop, _}) ->
        #{id => Vm, start => {?MODULE, start_vm, [Recorder, Vm, Stop]}, restart => Restart,
          significant => Significant, shutdown => shutdown(Stop)}
    end,
    Flags = #{strategy => Strategy, intensity => Intensity, period => Period, auto_shutdown => AutoShutdown},
    {ok, {Flags, lists:map(Child, Vms)}}.

shutdown(graceful) -> 5000;
shutdown(deaf) -> 1;
shutdown(brutal) -> brutal_kill.

%% The log handler below runs in the process of the supervisor that reports.
remember(Recorder, Name) ->
    put(recorder, Recorder),
    put(name, Name).

log(#{msg := {report, #{label := {supervisor, shutdown}, report := Report}}}, _) ->
    case {get(recorder), proplists:get_value(reason, Report)} of
        {Recorder, reached_max_restart_intensity} when is_pid(Recorder) -> ask(Recorder, {mark, $^, get(name)});
        _ -> ok
    end;
log(_, _) ->
    ok.

%% ---- A VM -----------------------------------------------------------------------------------------------------------

start_vm(Recorder, Vm, Stop) ->
    case ask(Recorder, {start, Vm}) of
        held -> ignore;
        ok -> spawn_vm(Recorder, Vm, Stop);
        fails -> {error, planned};
        {exits, Other, How} ->
            end_vm(Recorder, Other, How),
            spawn_vm(Recorder, Vm, Stop)
    end.

spawn_vm(Recorder, Vm, Stop) ->
    {Parent, Ready} = {self(), make_ref()},
    Pid = spawn_link(fun() ->
        process_flag(trap_exit, Stop =/= brutal),
        Parent ! Ready,
        vm(Parent, Recorder, Vm, Stop)
    end),
    receive Ready -> ok end,
    ask(Recorder, {runs, Vm, Pid, Stop}),
    {ok, Pid}.

vm(Parent, Recorder, Vm, Stop) ->
    receive
        {exit, Reason} ->
            exit(Reason);
        {'EXIT', Parent, Reason} ->
            ask(Recorder, {mark, $-, Vm}),
            case Stop of
                deaf -> receive never -> ok end;
                graceful -> exit(Reason)
            end
    end.

%% Ends a VM from inside or outside, and waits for its end.
end_vm(Recorder, Pid, How) ->
    Monitor = monitor(process, Pid),
    ask(Recorder, {ends_by_itself, Pid}),
    case How of
        killed -> exit(Pid, kill);
        Reason -> Pid ! {exit, Reason}
    end,
    receive {'DOWN', Monitor, process, _, _} -> ok end.

%% ---- The recorder ---------------------------------------------------------------------------------------------------

ask(Recorder, Question) ->
    Monitor = monitor(process, Recorder),
    Recorder ! {Question, self(), Monitor},
    receive
        {Monitor, Answer} -> demonitor(Monitor, [flush]), Answer;
        {'DOWN', Monitor, process, _, _} -> ok
    end.

recorder(Memory) ->
    receive
        stop -> ok;
        {'DOWN', _, process, Pid, _} -> recorder(gone(Pid, Memory));
        {Question, From, Tag} ->
            {Answer, New} = record(Question, killed(Memory)),
            From ! {Tag, Answer},
            recorder(New)
    end.

%% Records the VMs that were killed without being asked before the present question.
killed(Memory) ->
    case lists:any(fun(Pid) -> not is_process_alive(Pid) end, maps:keys(Memory#memory.brutal)) of
        true -> receive {'DOWN', _, process, Pid, _} -> killed(gone(Pid, Memory)) end;
        false -> Memory
    end.

gone(Pid, #memory{brutal = Brutal} = Memory) ->
    case maps:take(Pid, Brutal) of
        {{ends_by_itself, _}, Rest} -> Memory#memory{brutal = Rest};
        {Vm, Rest} -> mark($x, Vm, Memory#memory{brutal = Rest});
        error -> Memory
    end.

mark(Mark, Name, #memory{marks = Marks} = Memory) ->
    Memory#memory{marks = [[Mark, atom_to_list(Name)] | Marks]}.

record({mark, Mark, Name}, Memory) ->
    {ok, mark(Mark, Name, Memory)};
record({start, Vm}, #memory{starts = Starts, plans = Plans, held = Held, holds = Holds, pids = Pids} = Memory) ->
    case Holds andalso sets:is_element(Vm, Held) of
        true ->
            {held, Memory};
        false ->
            Number = maps:get(Vm, Starts, 0) + 1,
            New = Memory#memory{starts = Starts#{Vm => Number}},
            case maps:get({Vm, Number}, Plans, ok) of
                fails -> {fails, mark($!, Vm, New)};
                ok -> {ok, mark($+, Vm, New)};
                {exits, Other, How} ->
                    Pid = maps:get(Other, Pids, undefined),
                    case is_pid(Pid) andalso is_process_alive(Pid) of
                        true -> {{exits, Pid, How}, mark($+, Vm, mark($*, Other, New))};
                        false -> {ok, mark($+, Vm, New)}
                    end
            end
    end;
record({runs, Vm, Pid, Stop}, #memory{pids = Pids, brutal = Brutal} = Memory) ->
    NewBrutal =
        case Stop of
            brutal -> monitor(process, Pid), Brutal#{Pid => Vm};
            _ -> Brutal
        end,
    {ok, Memory#memory{pids = Pids#{Vm => Pid}, brutal = NewBrutal}};
record({ends_by_itself, Pid}, #memory{brutal = Brutal} = Memory) ->
    case Brutal of
        #{Pid := Vm} -> {ok, Memory#memory{brutal = Brutal#{Pid := {ends_by_itself, Vm}}}};
        _ -> {ok, Memory}
    end;
record({stopped, Vm}, #memory{held = Held} = Memory) ->
    {ok, Memory#memory{held = sets:add_element(Vm, Held)}};
record({wanted, Vm}, #memory{held = Held} = Memory) ->
    {ok, Memory#memory{held = sets:del_element(Vm, Held)}};
record(marks, #memory{marks = Marks} = Memory) ->
    {lists:reverse(Marks), Memory#memory{marks = []}}.

marks(Recorder) ->
    lists:join(" ", ask(Recorder, marks)).

%% ---- The steps ------------------------------------------------------------------------------------------------------

step({exits, Ends}, Root, Of, Recorder) ->
    Found = [{Vm, How, find(Root, Of, Vm)} || {Vm, How} <- Ends],
    [ask(Recorder, {mark, $?, Vm}) || {Vm, _, none} <- Found],
    case [{How, Sup, Pid} || {_, How, {Sup, Pid}} <- Found] of
        [] ->
            ok;
        [{How, _, Pid}] ->
            end_vm(Recorder, Pid, How);
        [{_, Sup, _} | _] = Several ->
            %% All of them end before their supervisor hears of the first.
            ok = sys:suspend(Sup),
            lists:foldl(
                fun({How, _, Pid}, Number) ->
                    end_vm(Recorder, Pid, How),
                    until(fun() -> process_info(Sup, message_queue_len) =:= {message_queue_len, Number} end),
                    Number + 1
                end, 1, Several),
            ok = sys:resume(Sup)
    end;
step({stop, Vm}, Root, Of, Recorder) ->
    case group(Root, Of, Vm) of
        none -> ok;
        Sup ->
            ask(Recorder, {stopped, Vm}),
            supervisor:terminate_child(Sup, Vm)
    end;
step({start, Vm}, Root, Of, Recorder) ->
    case group(Root, Of, Vm) of
        none -> ok;
        Sup ->
            ask(Recorder, {wanted, Vm}),
            supervisor:restart_child(Sup, Vm)
    end;
step({pass, Milliseconds}, _, _, _) ->
    timer:sleep(Milliseconds);
step(next_second, _, _, _) ->
    Second = erlang:monotonic_time(1),
    until(fun() -> erlang:monotonic_time(1) =/= Second end);
step(finish, Root, _, _) ->
    exit(Root, shutdown),
    receive {'EXIT', Root, _} -> ok end.

group(Root, Of, Vm) ->
    try lists:keyfind(maps:get(Vm, Of), 1, supervisor:which_children(Root)) of
        {_, Sup, _, _} when is_pid(Sup) -> Sup;
        _ -> none
    catch exit:_ -> none
    end.

find(Root, Of, Vm) ->
    case group(Root, Of, Vm) of
        none -> none;
        Sup ->
            case lists:keyfind(Vm, 1, supervisor:which_children(Sup)) of
                {_, Pid, _, _} when is_pid(Pid) -> {Sup, Pid};
                _ -> none
            end
    end.

%% Waits until nothing is under way any more, and returns what has happened and what is left.
report(Root, Recorder, Names) ->
    put(left, none),
    until(fun() ->
        Left = left(Root),
        put(left, Left),
        Left =/= busy
    end),
    State =
        case get(left) of
            down ->
                ["=tree:down"];
            Left ->
                [begin
                     Running = maps:get(Name, Left),
                     Text = if Running =:= down -> "down"; true -> lists:join(",", lists:sort(Running)) end,
                     ["=", atom_to_list(Name), ":", Text]
                 end || Name <- Names]
        end,
    lists:join(" ", ask(Recorder, marks) ++ State).

left(Root) ->
    case is_process_alive(Root) of
        false -> down;
        true ->
            try maps:from_list([{Name, running(Sup)} || {Name, Sup, _, _} <- supervisor:which_children(Root)])
            catch
                throw:busy -> busy;
                exit:_ -> busy
            end
    end.

running(undefined) -> down;
running(restarting) -> throw(busy);
running(Sup) -> [atom_to_list(Vm) || {Vm, Pid, _, _} <- supervisor:which_children(Sup), is_up(Pid)].

is_up(undefined) -> false;
is_up(restarting) -> throw(busy);
is_up(Pid) -> is_process_alive(Pid) orelse throw(busy).

until(Condition) -> until(Condition, erlang:monotonic_time(millisecond) + 20000).

until(Condition, Deadline) ->
    case Condition() of
        true -> ok;
        false ->
            erlang:monotonic_time(millisecond) < Deadline orelse exit(stuck),
            erlang:yield(),
            until(Condition, Deadline)
    end.
