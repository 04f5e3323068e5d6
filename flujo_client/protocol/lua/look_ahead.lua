--[[ look_ahead — store what was decided ahead: what commits dispatch by themselves for as long as nobody decides anything else.
KEYS  1 run hash   2 attempts hash
ARGV  1 revision that it was decided on   2 operation that stored it   3.. path, next path, queue, terms, task, message per follower
REPLY {1} stored | {0} the run has moved on ]]
local run = redis.call('HMGET', KEYS[1], 'revision', 'operation', 'gate')
if run[1] ~= ARGV[1] or run[2] ~= ARGV[2] or run[3] ~= 'open' then return {0} end
local fields = {}
local function set(field, value) fields[#fields + 1], fields[#fields + 2] = field, value end
local at = 3
while at < #ARGV do
  local next = ARGV[at + 1]
  set(ARGV[at] .. '|then', table.concat({ARGV[1], next, ARGV[at + 2]}, ' '))
  set(next .. '|terms', ARGV[at + 3])
  set(next .. '|task', ARGV[at + 4])
  set(next .. '|message', ARGV[at + 5])
  at = at + 6
end
redis.call('HSET', KEYS[2], unpack(fields))
return {1}
