import { ConflictException, Injectable, NotFoundException } from '@nestjs/common';
import { isDeepStrictEqual } from 'node:util';
import { Callbacks } from './callbacks.js';
import type { AiTask, State } from './schemas.js';
import { Store } from './store.js';
import type { UpdateAiTaskDto } from './update-ai-task.dto.js';

/**
 * From which states a task may come into each: an outcome is final. `in_progress` comes from `pending` alone, which
 * makes it a claim: of two workers that list the same task one gets a 409, and leaves it to the other.
 */
const FROM: Record<State, State[]> = {
  pending: ['in_progress'],
  in_progress: ['pending'],
  succeeded: ['pending', 'in_progress'],
  failed: ['pending', 'in_progress'],
};

@Injectable()
export class AiTasksService {
  constructor(
    private readonly store: Store,
    private readonly callbacks: Callbacks,
  ) {}

  async create(tasks: Partial<AiTask>[]): Promise<string[]> {
    const { tasks: collection } = this.store;
    const created = tasks.map((task) => new collection.model(task));
    for (const task of created) await collection.save(task);
    wakeWorker();
    return created.map((task) => task.id);
  }

  pending(limit = Infinity): AiTask[] {
    return this.store.tasks
      .all()
      .filter((task) => task.state === 'pending')
      .slice(0, limit);
  }

  /**
   * The worker repeats a PATCH whose answer it did not get: the same outcome once more is answered like the first
   * time and has no further effect. Anything else that `FROM` does not allow is a conflict. With a database, the
   * condition belongs into the query, so that of two requests at once only one wins:
   * `findOneAndUpdate({ _id: id, state: { $in: FROM[state] } }, change, { new: true })`.
   */
  async update(id: string, { state, result, error }: UpdateAiTaskDto): Promise<AiTask> {
    const { tasks } = this.store;
    const task = tasks.find(id);
    if (!task) throw new NotFoundException(`AI task ${id} not found`);
    if (FROM[state].includes(task.state)) {
      await tasks.save(task.set({ state, result, error, calledBackAt: undefined }));
    } else if (!isRepeated(task, state, result)) {
      throw new ConflictException(`AI task ${id} is already ${task.state}`);
    }
    // A callback that throws, or still runs when the repeated PATCH comes, runs again: make it repeatable. The
    // task's id is the key by which whatever it starts can be recognised.
    if (task.state === 'succeeded' && task.result !== undefined && !task.calledBackAt) {
      await this.callbacks.run(task);
      await tasks.save(task.set({ calledBackAt: new Date() }));
    }
    return task;
  }
}

/** Is this the outcome that the task has already? A claim is not: its second comes from another worker. */
function isRepeated(task: AiTask, state: State, result: unknown): boolean {
  if (state === 'in_progress' || state !== task.state) return false;
  return result === undefined || isDeepStrictEqual(result, task.result);
}

/** May be lost without harm, so nobody waits for it: the worker polls all the same. */
function wakeWorker(): void {
  const { WORKER_WAKE_URL: url, WAKE_TOKEN: token } = process.env;
  if (url) fetch(url, { method: 'POST', headers: { authorization: `Bearer ${token}` } }).catch(() => {});
}
