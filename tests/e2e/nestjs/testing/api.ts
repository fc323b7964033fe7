/** The API with a back door for the tests: they add tasks, look, and hold requests until they say so. */

import {
  Body,
  type CallHandler,
  Controller,
  Delete,
  type ExecutionContext,
  Get,
  Injectable,
  type MiddlewareConsumer,
  Module,
  type NestInterceptor,
  type NestModule,
  Param,
  Patch,
  Post,
} from '@nestjs/common';
import { APP_INTERCEPTOR } from '@nestjs/core';
import type { ServerResponse } from 'node:http';
import { decodeProtectedHeader } from 'jose';
import { type Observable, concatMap } from 'rxjs';
import { AppModule } from '../src/app.module.js';
import { AiTasksService } from '../src/ai-tasks.service.js';
import { listen } from '../src/listen.js';
import type { AiTask } from '../src/schemas.js';
import { Store } from '../src/store.js';
import { UpdateAiTaskDto } from '../src/update-ai-task.dto.js';

type Moment = 'arrival' | 'answer';

/** Holds the PATCHes of chosen tasks, before the guard looks at them or when all but the answer is done. */
@Injectable()
class Holds implements NestInterceptor {
  /** Keys of the tokens that passed the guard, and how many did not. */
  readonly keys = new Set<string>();
  refusedTokens = 0;
  private readonly wanted = new Map<string, Moment>();
  private readonly waiting = new Map<string, () => void>();

  get held(): string[] {
    return [...this.waiting.keys()];
  }

  hold(id: string, when: Moment): void {
    this.wanted.set(id, when);
  }

  release(id: string): void {
    this.wanted.delete(id);
    this.waiting.get(id)?.();
    this.waiting.delete(id);
  }

  reset(): void {
    this.keys.clear();
    this.refusedTokens = 0;
    this.wanted.clear();
    for (const id of this.held) this.release(id);
  }

  async pass(url: string, moment: Moment): Promise<void> {
    const id = url.split('/').at(-1)!;
    if (this.wanted.get(id) === moment) await new Promise<void>((go) => this.waiting.set(id, go));
  }

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const { originalUrl, headers } = context.switchToHttp().getRequest();
    if (headers.authorization) this.keys.add(decodeProtectedHeader(headers.authorization.split(' ')[1]).kid!);
    return next.handle().pipe(
      concatMap(async (answer) => {
        await this.pass(originalUrl, 'answer');
        return answer;
      }),
    );
  }
}

@Controller('testing')
class TestingController {
  constructor(
    private readonly store: Store,
    private readonly tasks: AiTasksService,
    private readonly holds: Holds,
  ) {}

  @Get()
  look() {
    const states = Object.fromEntries(this.store.tasks.all().map((task) => [task.id, task.state]));
    return { states, held: this.holds.held, keys: [...this.holds.keys], refusedTokens: this.holds.refusedTokens };
  }

  @Get('targets')
  targets() {
    return this.store.targets.all();
  }

  @Delete()
  reset() {
    this.holds.reset();
    this.store.tasks.clear();
    this.store.targets.clear();
    delete process.env.WORKER_WAKE_URL;
  }

  @Post('tasks')
  create(@Body() tasks: Partial<AiTask>[]) {
    return this.tasks.create(tasks);
  }

  @Patch('tasks/:id')
  update(@Param('id') id: string, @Body() update: UpdateAiTaskDto) {
    return this.tasks.update(id, update);
  }

  @Delete('tasks/:id')
  delete(@Param('id') id: string) {
    this.store.tasks.delete(id);
  }

  @Post('holds/:id/:when')
  hold(@Param('id') id: string, @Param('when') when: Moment) {
    this.holds.hold(id, when);
  }

  @Delete('holds/:id')
  release(@Param('id') id: string) {
    this.holds.release(id);
  }

  @Post('environment')
  set(@Body() variables: Record<string, string>) {
    Object.assign(process.env, variables);
  }
}

@Module({
  imports: [AppModule],
  controllers: [TestingController],
  providers: [Holds, { provide: APP_INTERCEPTOR, useExisting: Holds }],
})
class TestingModule implements NestModule {
  constructor(private readonly holds: Holds) {}

  configure(consumer: MiddlewareConsumer): void {
    consumer
      .apply((request: { originalUrl: string }, response: ServerResponse, next: () => void) => {
        response.on('finish', () => (this.holds.refusedTokens += response.statusCode === 401 ? 1 : 0));
        void this.holds.pass(request.originalUrl, 'arrival').then(next);
      })
      .forRoutes('api/*path');
  }
}

process.stdin.resume().on('end', () => process.exit()); // with the tests, however they end
await listen(TestingModule);
