--[[ ahead — what was decided ahead of an outcome; prepended at load for the script that goes by it.
Fields of the attempts hash, by look_ahead.lua: "<path>|then" = "<revision> <next path> <queue>": if an attempt of the path simply succeeds while the run
stands at that revision, the next path's first attempt is dispatched, with its terms and task, which stand where those of every
dispatch do, and with "<next path>|message". Of the run: "ahead" = id of the last outcome after which something was. ]]
-- The follower of a path, if it was decided on just this state of the run: nothing was decided since, and every outcome that is
-- not applied yet was gone by ahead as well. (A budget's warning that the same commit appends is told, and changes no decision.)
local function follower(then_what, revision, applied, last, ahead)
  local next = words(then_what)
  if not next[1] or next[1] ~= revision or (last ~= applied and last ~= ahead) then return nil end
  return {path = next[2], queue = next[3]}
end

-- Dispatches the follower of a path: journals it as advance.lua does, and puts its message into the broker's list.
local function go_ahead(desk, path, next, list)
  local now = int(now_ms())
  local member = table.concat({desk.run_id, next.path, '1', next.queue}, ' ')
  redis.call('HSET', desk.attempts, next.path .. '|attempt', '1', next.path .. '|state', 'dispatched', next.path .. '|nonce', '')
  redis.call('ZADD', desk.dispatches, int(now + 2000), member)  -- from then on its message may be lost
  redis.call('HSET', desk.published, member, now .. ' 1')
  redis.call('LPUSH', list, redis.call('HGET', desk.attempts, next.path .. '|message'))
  redis.call('HDEL', desk.attempts, path .. '|then', next.path .. '|message')
end
