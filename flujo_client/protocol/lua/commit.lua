--[[ commit — settle a claim's budget and, if it still holds its lease, store its outcome and wake the run's manager.
KEYS  1 run hash   2 attempts hash   3 accounts hash   4 payloads hash   5 event stream   6 dirty zset   7 held zset of the incarnation   8 inbox list
      9 waiters zset   10 dispatches zset   11 published hash   12 named hash   13 named_queue zset   14 named_due zset
      15 queue list of the broker, where scripts may publish
ARGV  1 run id   2 path   3 attempt   4 claim nonce   5 kind of event   6 usage, "meter=amount ..."   7 output payload, '' for none
      8 step result   9 context payload, '' for none, a failure's kept under its attempt   10 context form, snapshot or delta   11 data of the event
      12 1 if what was decided ahead may be gone by: the broker is this Redis
REPLY {1, overrun} committed, overrun as "meter=amount ..." | {0} lease lost, spend settled | {-1, status} run inactive, spend settled and result discarded ]]
local path, nonce = ARGV[2], ARGV[4]
local claim = 'claim|' .. nonce .. '|'
local stored = redis.call('HMGET', KEYS[2], claim .. 'phase', claim .. 'answer', claim .. 'reserved', path .. '|terms',
  claim .. 'named', path .. '|then', path .. '|blocked')
local run = redis.call('HMGET', KEYS[1], 'gate', 'status', 'revision', 'applied', 'last_event', 'ahead')
local phase = stored[1]
if phase == 'committed' then return {1, stored[2]} end
if phase == 'discarded' then return {-1, run[2]} end
if phase ~= 'held' and phase ~= 'lost' then return {0} end

local terms = terms_of(stored[4])
local chain, book, over = chain_of(terms[3]), book_open(KEYS[3]), {}
local reserved, usage = amounts(stored[3]), amounts(ARGV[6])
local part = phase == 'held' and 'reserved' or 'unknown'
for meter in pairs(reserved) do usage[meter] = usage[meter] or 0 end
for meter, actual in pairs(usage) do
  local held = reserved[meter] or 0
  if phase == 'lost' and words(terms[2])[1] == 'refund' then held = 0 end
  local missing = settle(book, chain, meter, part, held, actual)
  if missing > 0 then over[#over + 1] = meter .. '=' .. int(missing) end
end

local desk = desk_open({book = book, run_id = ARGV[1], run = KEYS[1], attempts = KEYS[2], events = KEYS[5], dirty = KEYS[6], inbox = KEYS[8],
  waiters = KEYS[9], dispatches = KEYS[10], published = KEYS[11]})
get_up(desk, path, nonce, stored[7])
if phase == 'held' and run[1] == 'open' and ARGV[5] == 'paused' then rest(book, path, chain) end
tally(desk, usage, path, ARGV[3], run[1])
desk_close(desk)
if stored[5] then  -- accounts above the run
  local named = named_open(KEYS[12], KEYS[13], KEYS[14])
  named_settle(named, stored[5], phase == 'held' and 1 or 3, said(usage), false, KEYS[3], KEYS[8])
  redis.call('HDEL', KEYS[2], claim .. 'named')
  named_write(named)
end
local overrun = table.concat(over, ' ')
redis.call('ZREM', KEYS[7], table.concat({ARGV[1], path, ARGV[3], nonce}, ' '))
redis.call('HSET', KEYS[2], claim .. 'used', ARGV[6], claim .. 'overrun', overrun, claim .. 'unknown', '')  -- what an audit adds up
if phase == 'lost' then
  redis.call('HSET', KEYS[2], claim .. 'phase', 'settled')
  return {0}
end
if run[1] ~= 'open' then
  redis.call('HSET', KEYS[2], path .. '|state', 'closed', claim .. 'phase', 'discarded')
  return {-1, run[2]}
end
redis.call('HSET', KEYS[2], path .. '|state', 'closed', claim .. 'phase', 'committed', claim .. 'answer', overrun)
redis.call('HSET', KEYS[4], 'res:' .. path, ARGV[8])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[4], 'out:' .. path, ARGV[7]) end
local failed = ARGV[5] == 'failed' and '#' .. ARGV[3] or ''
if ARGV[9] ~= '' then redis.call('HSET', KEYS[4], 'ctx:' .. path .. failed, ARGV[9]) end
local outcome = {'kind', ARGV[5], 'path', path, 'attempt', ARGV[3], 'nonce', nonce, 'usage', ARGV[6], 'overrun', overrun,
  'context', ARGV[9] ~= '' and ARGV[10] or '', 'data', ARGV[11]}
local simple = ARGV[12] == '1' and ARGV[5] == 'succeeded' and ARGV[9] == '' and overrun == ''
local next = simple and follower(stored[6], run[3], run[4], run[5], run[6]) or nil
if next then
  go_ahead(desk, path, next, KEYS[15])
  outcome[#outcome + 1], outcome[#outcome + 2] = 'ahead', next.path
end
append(KEYS[1], KEYS[5], KEYS[6], KEYS[8], ARGV[1], outcome, next)
return {1, overrun}
