--[[ advance — apply one decision to a run if nobody else has: nodes, splits, closed branches, dispatches, status; compare-and-set.
KEYS  1 run hash   2 nodes hash   3 attempts hash   4 accounts hash   5 dirty zset   6 dispatches zset   7 published hash   8 cancelled zset
      9 waiters zset   10 event stream   11 inbox list   12 alarms zset
ARGV  1 run id   2 operation id   3 revision expected   4 last operation expected   5 id of the last event applied   6 status, '' to keep
      7 error, '' for none   8 ms until an unleased dispatch is suspect   9 schema version   10 count of nodes   11 of closed   12 of splits   13 of dispatches
      14 1 if branches are still to be opened, else 0   15 alarms of pauses, "path what at_ms ...", at 0 to drop one
      16.. path, json per node; chain per closed branch; path, parent chain, meter, total, share per split ("<count> <base> <remainder>" or "w <share> ...");
      then path, attempt, delay_ms, queue, terms, task per dispatch (empty terms and task: those of the attempt before)
REPLY {1, revision, still dirty, now_ms} applied | {0, revision, operation} another advanced, or what it was decided on is lost | {-1, gate} the gate forbids it
      | {-2, path} a split no longer fits its account | {-5, schema} schema mismatch ]]
local run = redis.call('HMGET', KEYS[1], 'schema', 'revision', 'operation', 'gate', 'last_event', 'applied')
if not run[1] then return {0, '', ''} end
if run[1] ~= ARGV[9] then return {-5, run[1]} end
local now = now_ms()
if run[3] == ARGV[2] then return {1, run[2], redis.call('ZSCORE', KEYS[5], ARGV[1]) and 1 or 0, int(now)} end
if run[2] ~= ARGV[3] or run[3] ~= ARGV[4] then return {0, run[2], run[3]} end
local links = links_between(KEYS[1], run[6], ARGV[5])
if not links then return {0, run[2], run[3]} end
if run[4] == 'closed' or (run[4] == 'cancelled' and ARGV[6] ~= 'cancelled' and ARGV[6] ~= 'aborted') then return {-1, run[4]} end

local at, book = 16, book_open(KEYS[4])
local desk = desk_open({book = book, run_id = ARGV[1], run = KEYS[1], attempts = KEYS[3], dirty = KEYS[5], dispatches = KEYS[6],
  published = KEYS[7], waiters = KEYS[9], events = KEYS[10], inbox = KEYS[11]})
local function take_words(count)
  local values = {unpack(ARGV, at, at + count - 1)}
  at = at + count
  return values
end
local nodes = {}
for _ = 1, tonumber(ARGV[10]) do
  local node = take_words(2)
  nodes[#nodes + 1], nodes[#nodes + 2] = node[1], node[2]
end
local meters = words(redis.call('HGET', KEYS[4], 'meters'))
for _ = 1, tonumber(ARGV[11]) do
  local chain = chain_of(take_words(1)[1])
  for _, meter in ipairs(meters) do
    local rows = lineage(book, chain, meter)
    if #rows > 0 and rows[1].account == chain[1].id then
      rows[1].closed, rows[1].touched = 1, true
      give_back(book, rows)
    end
  end
  close_branch(book, chain)
end
for _ = 1, tonumber(ARGV[12]) do
  local split = take_words(5)
  local chain, total = chain_of(split[2]), tonumber(split[4])
  local rows = lineage(book, chain, split[3])
  if #rows > 0 and rows[1].account == chain[1].id then
    if free(rows[1]) ~= total then return {-2, split[1]} end
    rows[1].children, rows[1].touched = rows[1].children + total, true
    split_book(book, split[1], split[3], rows[1].pool, split[5])
  end
end
for _ = 1, tonumber(ARGV[13]) do
  local dispatch = take_words(6)
  local path, delay = dispatch[1], tonumber(dispatch[3])
  local member = table.concat({ARGV[1], path, dispatch[2], dispatch[4]}, ' ')
  later(desk, 'HSET', KEYS[3], path .. '|attempt', dispatch[2], path .. '|state', 'dispatched', path .. '|nonce', '')
  local terms = dispatch[5]
  if terms ~= '' then
    later(desk, 'HSET', KEYS[3], path .. '|terms', terms, path .. '|task', dispatch[6])
    open_chain(book, chain_of(terms_of(terms)[3]))
  end
  if delay > 0 then
    rest(book, path, chain_of(terms_of(terms ~= '' and terms or redis.call('HGET', KEYS[3], path .. '|terms'))[3]))
  elseif dispatch[2] ~= '1' then
    rouse(book, path)  -- it may have been paused
  end
  later(desk, 'ZADD', KEYS[6], int(now + (delay > 0 and delay or tonumber(ARGV[8]))), member)
  later(desk, 'HSET', KEYS[7], member, delay > 0 and '0 0' or int(now) .. ' 1')
end
if desk.opening ~= (ARGV[14] == '1') then
  desk.opening = ARGV[14] == '1'
  later(desk, 'HSET', KEYS[4], 'opening', ARGV[14])
  if not desk.opening and life(book, 'root').running == 0 then book.idle[1] = {chain = chain_of('root'), level = 1} end
end
local ends = ARGV[6] ~= '' and ARGV[6] ~= 'running' and ARGV[6] ~= 'paused'

if ends then disband(desk) end
desk_close(desk)
for i = 1, #nodes, 2 do redis.call('HSET', KEYS[2], nodes[i], nodes[i + 1]) end
set_alarms(KEYS[12], ARGV[1], ARGV[15])
if #links > 0 then redis.call('HDEL', KEYS[1], unpack(links)) end  -- nobody needs to find them any more
local revision = int(tonumber(ARGV[3]) + 1)
redis.call('HSET', KEYS[1], 'revision', revision, 'operation', ARGV[2], 'applied', ARGV[5])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'status', ARGV[6], 'error', ARGV[7]) end
if ends then  -- it stays dirty until finish
  redis.call('HSET', KEYS[1], 'gate', 'closed', 'finished_ms', int(now))
  redis.call('ZADD', KEYS[8], int(now), ARGV[1])
  return {1, revision, 0, int(now)}
end
if ARGV[6] == 'paused' then redis.call('XADD', KEYS[10], '*', 'kind', 'suspended', 'path', 'root') end
local more = run[5] ~= ARGV[5] or #desk.outcomes > 0
if not more then redis.call('ZREM', KEYS[5], ARGV[1]) end
return {1, revision, more and 1 or 0, int(now)}
